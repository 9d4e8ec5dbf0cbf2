"""make-data against the original create_pretraining_data.py on the same text, in the same run.

The original's two files are read from a checkout of google-research/bert and run as they are, with
a stand-in for the few names of TensorFlow that instance creation touches. Of the original only
`create_training_instances` is timed: reading, tokenizing, pairs and masks; it writes nothing. Of
nlpapp everything is: starting the workers, reading, splitting, tokenizing, pairs, masks, writing.

    python benchmarks/pretraining_data.py --bert CHECKOUT --vocabulary vocab.txt --novels FOLDER
        [--megabytes 20] [--workers 2] [--turns 3]
        [--parts floor,speed,memory,disk,equivalence,workers]

Without --bert only nlpapp is measured.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.data.pretraining_instances import PretrainingOptions
from nlpapp.data.pretraining_shards import write_pretraining_data
from nlpapp.data.task_pool import TaskPool
from nlpapp.data.tfrecords import write_tfrecords
from nlpapp.text.documents import read_documents
from nlpapp.text.sources import find_sources
from nlpapp.text.word_encoding import LineEncoder, plain_encoder
from nlpapp.text.wordpiece import load_tokenizer

LENGTH, PREDICTIONS = 128, 20
TENSORFLOW = """
class _Flags:
    def __getattr__(self, name):
        return None

class flags:
    FLAGS = _Flags()
    @staticmethod
    def DEFINE_string(*arguments, **options):
        pass
    DEFINE_bool = DEFINE_integer = DEFINE_float = DEFINE_string

class gfile:
    @staticmethod
    def GFile(path, mode="r"):
        return open(path, "rb")

class logging:
    @staticmethod
    def info(*arguments):
        pass
"""
ORIGINAL = """
import json, random, resource, sys, time
import create_pretraining_data as original, tokenization
path, vocabulary, dupe_factor = sys.argv[1], sys.argv[2], int(sys.argv[3])
tokenizer = tokenization.FullTokenizer(vocabulary, do_lower_case=True)
start = time.perf_counter()
instances = original.create_training_instances(
    [path], tokenizer, 128, dupe_factor, 0.1, 0.15, 20, random.Random(12345))
seconds = time.perf_counter() - start
tokens = sum(len(i.tokens) for i in instances)
print(json.dumps({
    "seconds": seconds, "instances": len(instances), "mean_length": tokens / len(instances),
    "mask_rate": sum(len(i.masked_lm_positions) for i in instances) / tokens,
    "random_share": sum(i.is_random_next for i in instances) / len(instances),
    "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}))
"""
COVERAGE = """
import json, random, sys
import create_pretraining_data as original
if sys.argv[2] == "whole":
    original.truncate_seq_pair = lambda *arguments: None
documents = [[int(n) for n in line.split()] for line in open(sys.argv[1])]
# Every token has a name of its own, so that it can be found again.
corpus, number = [], 0
for lengths in documents:
    corpus.append([])
    for length in lengths:
        corpus[-1].append([f"t{number + k}" for k in range(length)])
        number += length
rng, seen = random.Random(12345), set()
for index in range(len(corpus)):
    for instance in original.create_instances_from_document(
            corpus, index, 128, 0.1, 0.0, 1, ["x"], rng):
        # One token at least is masked; its label is what stood there.
        second = instance.tokens.index("[SEP]")
        shown = list(instance.tokens)
        for place, label in zip(instance.masked_lm_positions, instance.masked_lm_labels):
            shown[place] = label
        seen.update(shown[1:second] if instance.is_random_next else shown)
print(json.dumps({"covered": len(seen - {"[CLS]", "[SEP]"}) / number}))
"""


def prepare_text(novels: Path, folder: Path, megabytes: float) -> Path:
    """Write novels, a sentence a line, until there are ``megabytes`` of them."""
    path, size = folder / "novels.txt", 0
    with open(path, "w", encoding="utf-8") as output:
        for novel in sorted(novels.glob("*.txt")):
            for document in read_documents([str(novel)], input_format="text"):
                text = "\n".join(document.sentences) + "\n\n"
                output.write(text)
                size += len(text.encode())
            if size >= megabytes * 1e6:
                break
    return path


def run_original(checkout: Path, program: str, *arguments: object) -> dict[str, float]:
    """Run ``program`` beside the original's files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("create_pretraining_data.py", "tokenization.py"):
            shutil.copy(checkout / file, folder / file)
        (folder / "tensorflow.py").write_text(TENSORFLOW, encoding="utf-8")
        (folder / "six.py").write_text("PY3, PY2 = True, False\n", encoding="utf-8")
        (folder / "program.py").write_text(program, encoding="utf-8")
        command = [sys.executable, str(folder / "program.py"), *map(str, arguments)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


class PeakMemory:
    """The most resident memory, in megabytes, of each process of a run."""

    def __init__(self, process: psutil.Process) -> None:
        self.process = process
        self.peaks: dict[int, float] = {}

    def look(self) -> None:
        """Look once; called 50 times a second."""
        for process in [self.process, *self.process.children(recursive=True)]:
            try:
                used = process.memory_info().rss / 1e6
            except psutil.NoSuchProcess:
                continue
            self.peaks[process.pid] = max(used, self.peaks.get(process.pid, 0.0))


def run_ours(inputs: list[Path], vocabulary: Path, folder: Path, **options: object) -> dict:
    """Make data by the command, as a user would; return its figures and the peaks of memory."""
    shutil.rmtree(folder, ignore_errors=True)
    settings = {"inputs": json.dumps([str(path) for path in inputs]), "tokenizer": vocabulary}
    settings |= {"output_dir": folder, "input_format": "lines"} | options
    command = [sys.executable, "-m", "nlpapp", "make-data"]
    command += [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    memory = PeakMemory(psutil.Process(process.pid))
    while process.poll() is None:
        memory.look()
        time.sleep(0.02)
    assert process.returncode == 0, command
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    parent = memory.peaks.pop(process.pid)
    workers = sorted(memory.peaks.values())
    return figures | {
        "command_seconds": time.perf_counter() - start,
        "parent_megabytes": parent,
        "worker_megabytes": workers[-1] if workers else 0.0,
    }


def time_function(path: Path, vocabulary: Path, folder: Path, workers: int, dupe: int) -> float:
    """Return the seconds of everything after the imports: workers started, shards written."""
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = load_tokenizer(vocabulary)
    start = time.perf_counter()
    with TaskPool(workers=workers) as pool:
        write_pretraining_data(
            folder,
            sources=find_sources([str(path)], input_format="lines"),
            tokenizer=tokenizer,
            options=PretrainingOptions(max_seq_length=LENGTH, dupe_factor=dupe),
            pool=pool,
        )
    return time.perf_counter() - start


def compare_speed(arguments: argparse.Namespace, path: Path, work: Path) -> None:
    """Bar: at least 15 times the original's megabytes a second, in turn, medians."""
    size = path.stat().st_size / 1e6
    for dupe in (5, 10):
        ours, command, theirs = [], [], []
        for _ in range(arguments.turns):
            ours.append(
                time_function(path, arguments.vocabulary, work / "ours", arguments.workers, dupe)
            )
            made = run_ours(
                [path], arguments.vocabulary, work / "command",
                workers=arguments.workers, dupe_factor=dupe, max_seq_length=LENGTH,
            )  # fmt: skip
            command.append(made["command_seconds"])
            if arguments.bert and len(theirs) < arguments.original_turns:
                theirs.append(
                    run_original(arguments.bert, ORIGINAL, path, arguments.vocabulary, dupe)
                )
        row = {"dupe_factor": dupe, "text_megabytes": round(size, 2)}
        row["nlpapp_MB_s"] = round(size / statistics.median(ours), 2)
        row["nlpapp_command_MB_s"] = round(size / statistics.median(command), 2)
        if theirs:
            seconds = statistics.median(t["seconds"] for t in theirs)
            row["original_MB_s"] = round(size / seconds, 3)
            row["ratio"] = round(seconds / statistics.median(ours), 1)
            row["ratio_of_command"] = round(seconds / statistics.median(command), 1)
            row["original_peak_megabytes"] = round(theirs[-1]["peak_megabytes"])
        print(json.dumps(row), flush=True)


def compare_memory(arguments: argparse.Namespace, path: Path, work: Path) -> None:
    """Bar: the same peak memory for ten times the corpus, and under 1 GB a worker."""
    copies = [work / f"copy-{number}.txt" for number in range(10)]
    for copy in copies:
        shutil.copy(path, copy)
    peaks = []
    for inputs in ([path], copies):
        made = run_ours(
            inputs, arguments.vocabulary, work / "memory",
            workers=arguments.workers, max_seq_length=LENGTH,
        )  # fmt: skip
        peaks.append(max(made["worker_megabytes"], made["parent_megabytes"]))
        row = {"megabytes": round(sum(p.stat().st_size for p in inputs) / 1e6, 1)}
        row |= {key: round(made[key], 1) for key in ("worker_megabytes", "parent_megabytes")}
        row["command_seconds"] = round(made["command_seconds"], 1)
        print(json.dumps(row), flush=True)
    print(json.dumps({"memory_growth": round(peaks[1] / peaks[0] - 1, 4)}), flush=True)
    for copy in copies:
        copy.unlink()


def compare_disk(arguments: argparse.Namespace, path: Path, work: Path) -> None:
    """Bar: the bytes of the shards at most 1/8 of those of the original's TFRecord files."""
    records = 0.0
    for dupe, masking in itertools.product((5, 10), ("static", "dynamic")):
        folder = work / f"disk-{masking}"
        run_ours(
            [path], arguments.vocabulary, folder, workers=arguments.workers, masking=masking,
            dupe_factor=dupe, max_seq_length=LENGTH,
        )  # fmt: skip
        data = PretrainingData.open(folder)
        if masking == "static":
            (work / "records").mkdir()
            files = write_tfrecords(data, work / "records")
            records = sum(file.stat().st_size for file in files) / len(data)
            shutil.rmtree(work / "records")
        shards = sum(file.stat().st_size for file in folder.glob("*.parquet")) / len(data)
        integers = 8 * (3 * LENGTH + 3 * PREDICTIONS + 1)
        row = {"dupe_factor": dupe, "masking": masking, "bytes_an_instance": round(shards, 1)}
        row["bytes_a_token"] = round(data.manifest["statistics"]["bytes_per_token"], 3)
        row["tfrecord_bytes_an_instance"] = round(records, 1)
        row["times_smaller_than_tfrecord_files"] = round(records / shards, 2)
        row["times_smaller_than_padded_int64"] = round(integers / shards, 2)
        print(json.dumps(row), flush=True)
        shutil.rmtree(folder)


def compare_results(arguments: argparse.Namespace, path: Path, work: Path) -> None:
    """Bar: what comes out is what the original makes, but for its faults."""
    made = run_ours(
        [path], arguments.vocabulary, work / "same", workers=arguments.workers, dupe_factor=5,
        max_seq_length=LENGTH,
    )  # fmt: skip
    row = {name: round(made[name], 4) for name in ("mean_length", "mask_rate")}
    row["random_share"] = round(made["next_sentence_random_share"], 4)
    print(json.dumps({"nlpapp": row}), flush=True)
    if arguments.bert:
        found = run_original(arguments.bert, ORIGINAL, path, arguments.vocabulary, 5)
        names = ("mean_length", "mask_rate", "random_share")
        print(json.dumps({"original": {name: round(found[name], 4) for name in names}}), flush=True)
    print(json.dumps(coverage(arguments, path, work)), flush=True)


def coverage(arguments: argparse.Namespace, path: Path, work: Path) -> dict[str, float]:
    """Return the share of the corpus' tokens that one pass puts into the model as running text.

    That is A, and B where it follows A; a random B does not count. Before (whole) and after (cut)
    the pairs are cut to length.
    """
    from nlpapp.data.sentence_pairs import next_sentence_pairs, truncate_pairs
    from nlpapp.data.token_blocks import BlockText, tokenize_block

    encoder = LineEncoder(plain_encoder(load_tokenizer(arguments.vocabulary)))
    text = path.read_bytes()[: arguments.coverage_bytes].rpartition(b"\n\n")[0] + b"\n\n"
    options = PretrainingOptions(max_seq_length=LENGTH)
    ours = tokenize_block(
        [BlockText(text=text)], encoder, number=0, longest=options.longest_sentence
    )
    pairs = next_sentence_pairs(
        ours, seed=42, repeat=0, max_tokens=options.max_tokens, short_seq_prob=0.1
    )
    whole_spans = np.array(pairs.spans)
    cut_spans = truncate_pairs(whole_spans, options.max_tokens, np.random.default_rng(0))
    result = {}
    for name, spans in (("whole", whole_spans), ("cut", cut_spans)):
        used = np.zeros(len(ours.ids), dtype=bool)
        for (start_a, end_a, start_b, end_b), label in zip(spans, pairs.labels, strict=True):
            used[start_a:end_a] = True
            if not label:
                used[start_b:end_b] = True
        result[f"covered_by_nlpapp_{name}"] = round(float(used.mean()), 4)
    if arguments.bert:
        whole = tokenize_block([BlockText(text=text)], encoder, number=0, longest=10**9)
        lengths = work / "lengths.txt"
        lines = [
            " ".join(map(str, np.diff(whole.boundaries(number))))
            for number in range(whole.num_documents)
        ]
        lengths.write_text("\n".join(lines), encoding="utf-8")
        for name in ("whole", "cut"):
            found = run_original(arguments.bert, COVERAGE, lengths, name)
            result[f"covered_by_original_{name}"] = round(found["covered"], 4)
    return result


def compare_workers(arguments: argparse.Namespace, path: Path, work: Path) -> None:
    """Bar: the same bytes with 1, 2 and 8 workers; 8 files of a document each are all used."""
    digests = {}
    for workers in (1, 2, 8):
        folder = work / f"workers-{workers}"
        run_ours([path], arguments.vocabulary, folder, workers=workers, max_seq_length=LENGTH)
        whole = hashlib.sha256()
        for shard in sorted(folder.glob("*.parquet")):
            whole.update(shard.read_bytes())
        digests[workers] = whole.hexdigest()
        shutil.rmtree(folder)
    row = {"sha256": sorted(set(digests.values())), "workers": sorted(digests)}
    print(json.dumps(row), flush=True)
    documents = path.read_text(encoding="utf-8").strip().split("\n\n")[:8]
    files = [work / f"document-{number}.txt" for number in range(8)]
    for file, document in zip(files, documents, strict=True):
        file.write_text(document + "\n", encoding="utf-8")
    made = run_ours(files, arguments.vocabulary, work / "eight", workers=8, dupe_factor=1)
    row = {name: made[name] for name in ("documents_read", "documents", "instances")}
    print(json.dumps({"files": 8, "workers": 8} | row), flush=True)


def measure_floor(arguments: argparse.Namespace, path: Path) -> None:
    """Print the floor: tokenizing alone, by make-data on one core, and by `tokenizers`."""
    tokenizer = load_tokenizer(arguments.vocabulary)
    text = path.read_bytes()
    lines = text.decode().split("\n")[:-1]
    start = time.perf_counter()
    encoder = LineEncoder(plain_encoder(tokenizer))
    pieces = [text[i : i + 2_000_000] for i in range(0, len(text), 2_000_000)]
    borders = [piece.rpartition(b"\n") for piece in pieces]
    count, rest = 0, b""
    for before, end, after in borders:
        count += len(encoder.encode(rest + before + end).ids)
        rest = after
    ours = time.perf_counter() - start
    plain = plain_encoder(tokenizer)
    sample = random.Random(0).sample(lines, len(lines) // 10)
    start = time.perf_counter()
    number = sum(len(e.ids) for e in plain.encode_batch_fast(sample, add_special_tokens=False))
    theirs = time.perf_counter() - start
    row = {"tokens": count, "nlpapp_M_tokens_s_one_core": round(count / ours / 1e6, 2)}
    row["encode_batch_fast_M_tokens_s"] = round(number / theirs / 1e6, 2)
    row["encode_batch_fast_threads"] = os.cpu_count()
    print(json.dumps(row), flush=True)


def main() -> None:
    """Measure what is asked for; each line printed is a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bert", type=Path, help="a checkout of google-research/bert")
    parser.add_argument("--vocabulary", type=Path, default=Path("data/sample/vocab.txt"))
    parser.add_argument("--novels", type=Path, help="a folder of .txt files of prose")
    parser.add_argument("--megabytes", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--original_turns", type=int, default=1)
    parser.add_argument("--coverage_bytes", type=int, default=2_000_000)
    parser.add_argument("--parts", default="floor,speed,memory,disk,equivalence,workers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if arguments.novels:
            path = prepare_text(arguments.novels, work, arguments.megabytes)
        else:
            path = work / "sample.txt"
            text = Path("data/sample/corpus.txt").read_text(encoding="utf-8")
            path.write_text((text.strip() + "\n\n") * 20, encoding="utf-8")
        parts = {
            "floor": lambda: measure_floor(arguments, path),
            "speed": lambda: compare_speed(arguments, path, work),
            "memory": lambda: compare_memory(arguments, path, work),
            "disk": lambda: compare_disk(arguments, path, work),
            "equivalence": lambda: compare_results(arguments, path, work),
            "workers": lambda: compare_workers(arguments, path, work),
        }
        for part in arguments.parts.split(","):
            parts[part]()


if __name__ == "__main__":
    main()
