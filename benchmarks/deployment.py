"""Latency of exported models: a BiLSTM beside BERT-base and MiniLM, and beside optimum-onnx.

All models answer the same sentences in one run, in turn, each in a process of its own with the same
number of threads; a figure is a median. BERT-base and the BiLSTM have random weights, which changes
no latency. Prints the table and one JSON line for each bar.

    python benchmarks/deployment.py --minilm <folder of all-MiniLM-L6-v2>
        [--peer <python of an environment with optimum-onnx>]
        [--bare <python of an environment with numpy, onnxruntime and tokenizers only>]

Environments for the last two, outside the repository:

    python -m venv peer && peer/bin/pip install torch "optimum-onnx[onnxruntime]"
    python -m venv bare && bare/bin/pip install numpy onnxruntime tokenizers
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig
from transformers import BertForSequenceClassification as Bert

from nlpapp.data.classification import read_examples
from nlpapp.deployment.benchmark import Loaders, Plan, Subject, find_all, format_table, measure
from nlpapp.deployment.export import export_classifier
from nlpapp.models.bilstm import BiLstmSizeConfig, build_bilstm
from nlpapp.models.generation import generate_ids
from nlpapp.models.pretrained import load_classifier, save_model_folder
from nlpapp.text.vocabulary import load_vocabulary
from nlpapp.text.wordpiece import load_tokenizer

ROOT = Path(__file__).parents[1]
MAX_SEQ_LENGTH = 128
LABELS = {0: "negative", 1: "positive"}
NOT_OF_THE_PROGRAM = ("pip", "setuptools", "pkg_resources", "_distutils_hack")


def build_models(minilm: Path, folder: Path) -> list[Path]:
    """Return model folders and bundles, made in ``folder`` where they are not there yet."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    makers = {
        "bert-base": lambda: Bert(BertConfig(**vocabulary, id2label=LABELS)),
        "minilm": lambda: AutoModelForSequenceClassification.from_pretrained(
            minilm, id2label=LABELS, dtype=torch.float32
        ),
        "bilstm": lambda: build_bilstm(
            BiLstmSizeConfig(), label_names=tuple(LABELS.values()), **vocabulary
        ),
    }
    folders = []
    for name, make in makers.items():
        path = folder / name
        if not path.is_dir():
            save_model_folder(make(), path, tokenizer=tokenizer)
        folders.append(path)
        bundle = folder / f"{name}-bundle"
        if name == "bert-base":
            continue
        if not bundle.is_dir():
            export_classifier(
                load_classifier(path), tokenizer, bundle, max_seq_length=MAX_SEQ_LENGTH
            )
        folders.append(bundle)
    return folders


def peer_subjects(options: argparse.Namespace, work: Path) -> list[Subject]:
    """Return MiniLM as optimum-onnx exports and runs it, and our bundle of it without PyTorch."""
    program = [options.peer, str(ROOT / "benchmarks" / "optimum_process.py")]
    exported = work / "minilm-optimum"
    specification = {"folder": str(exported)}
    source = specification | {"source": str(work / "minilm")}
    # The program takes nothing else from this process's environment but where nlpapp is.
    subprocess.run(
        [*program, json.dumps(source)], check=True, env={"PYTHONPATH": str(ROOT), "HOME": str(work)}
    )
    bundle = work / "minilm-bundle"
    parameters = int(json.loads((bundle / "metrics.json").read_text())["parameters"])
    kinds = {"fp32": "model.onnx", "int8": "model.int8.onnx"}
    ours = [
        Subject(
            name="nlpapp bundle",
            kind=kind,
            parameters=parameters,
            bytes=(bundle / file).stat().st_size,
            specification={"folder": str(bundle), "precision": kind, "task": "classifier"},
            command=[options.bare, "-m", "nlpapp.deployment.timed_process"],
        )
        for kind, file in kinds.items()
    ]
    peer = Subject(
        name="optimum-onnx",
        kind="fp32",
        parameters=parameters,
        bytes=(exported / "model.onnx").stat().st_size,
        specification=specification | {"max_seq_length": MAX_SEQ_LENGTH},
        command=program,
    )
    return [peer, *ours]


def installed_megabytes(python: str) -> float:
    """Return the size of what is installed beside ``python``, without pip, setuptools and caches.

    Of ``nlpapp`` itself, which is found where it lies, see `runtime_megabytes`.
    """
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    found = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    folder = Path(found.stdout.strip())
    return megabytes(
        path
        for path in folder.rglob("*")
        if not path.relative_to(folder).parts[0].startswith(NOT_OF_THE_PROGRAM)
    )


def runtime_megabytes() -> float:
    """Return the size of the whole package nlpapp, more than a bundle needs of it."""
    return megabytes((ROOT / "nlpapp").rglob("*"))


def megabytes(paths: Any) -> float:
    """Return the size of files in 10^6 bytes; bytecode, which comes and goes, is left out."""
    files = (path for path in paths if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files if path.suffix != ".pyc") / 1e6


def by_name(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return rows by model and kind."""
    return {(row["model"], row["kind"]): row for row in rows}


def say(bar: str, measured: float, needed: str, holds: bool) -> None:
    """Print one JSON line."""
    print(json.dumps({"bar": bar, "measured": measured, "needed": needed, "holds": holds}))


def judge_latency(rows: list[dict[str, Any]]) -> None:
    """Print how far the exported models are before the others, at batch 1."""
    p50 = {name: row["p50_ms"] for name, row in by_name(rows).items()}
    student = p50["bilstm-bundle", "int8"]
    for title, ratio, least in (
        ("BERT-base PyTorch / BiLSTM int8, p50", p50["bert-base", "pytorch"] / student, 100),
        ("MiniLM ONNX fp32 / BiLSTM int8, p50", p50["minilm-bundle", "fp32"] / student, 20),
        (
            "MiniLM PyTorch fp32 / MiniLM ONNX int8, p50",
            p50["minilm", "pytorch"] / p50["minilm-bundle", "int8"],
            2,
        ),
    ):
        say(title, round(ratio, 2), f"at least {least}", ratio >= least)


def judge_peer(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print our bundle of the same model and precision beside optimum-onnx."""
    named = by_name(rows)
    ours, theirs = named["nlpapp bundle", "fp32"], named["optimum-onnx", "fp32"]
    for title, column in (("p50 of one text", "p50_ms"), ("start-up", "start_ms")):
        ratio = ours[column] / theirs[column]
        say(f"{title}, nlpapp / optimum-onnx", round(ratio, 3), "at most 1", ratio <= 1)
    for column in (name for name in ours if name.startswith("texts_per_second")):
        ratio = ours[column] / theirs[column]
        say(f"{column}, nlpapp / optimum-onnx", round(ratio, 3), "at least 1", ratio >= 1)
    own = installed_megabytes(options.bare) + runtime_megabytes()
    other = installed_megabytes(options.peer)
    title = f"installed MB, nlpapp / optimum-onnx ({own:.0f} / {other:.0f})"
    say(title, round(own / other, 3), "below 1", own < other)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minilm", type=Path, required=True)
    parser.add_argument("--peer", help="Python of an environment with optimum-onnx")
    parser.add_argument("--bare", help="Python of an environment without PyTorch")
    parser.add_argument("--texts", default=str(ROOT / "data/sample/sentiment/dev.tsv"))
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "bench" / "deployment")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--batch_sizes", type=int, nargs="*", default=[8, 32])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    texts = [text for text in read_examples(options.texts).texts_a if text.strip()]
    plan = Plan(
        batch_sizes=options.batch_sizes, rounds=options.rounds, thread_counts=[options.threads]
    )
    folders = build_models(options.minilm, options.work)
    subjects = find_all(
        folders,
        loaders=Loaders(load_classifier, load_tokenizer, load_vocabulary, generate_ids),
        max_seq_length=MAX_SEQ_LENGTH,
    )
    rows = measure(subjects, texts, plan=plan).models
    print(format_table(rows))
    judge_latency(rows)
    if options.peer and options.bare:
        subjects = peer_subjects(options, options.work)
        answers: list[Any] = []
        figures = measure(subjects, texts, plan=plan, judge=lambda found: answers.append(found))
        print(format_table(figures.models))
        judge_peer(figures.models, options)
        theirs, ours, _ = answers
        gap = max(
            abs(row["probabilities"][label] - other["probabilities"][label])
            for row, other in zip(ours, theirs, strict=True)
            for label in LABELS.values()
        )
        say("largest difference of a probability, fp32", gap, "at most 1e-4", gap <= 1e-4)


if __name__ == "__main__":
    main()
