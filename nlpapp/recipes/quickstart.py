"""The whole chain on the sample corpus: each stage is the recipe that a user calls."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlpapp.data.augmentation import AugmentationConfig
from nlpapp.data.classification import Examples, read_examples
from nlpapp.evaluation.baselines import majority_accuracy, tfidf_accuracy
from nlpapp.evaluation.chain_report import Chain, claims, format_claims, write_chain_report
from nlpapp.evaluation.predictions import read_predictions
from nlpapp.models.bert import BertSizeConfig
from nlpapp.models.bilstm import BiLstmSizeConfig
from nlpapp.models.language_models import TransformerXLSizeConfig
from nlpapp.objectives.distillation import DistillationConfig
from nlpapp.recipes import (
    benchmark,
    distill,
    export,
    finetune,
    make_data,
    pretrain,
    train_lm,
    train_tokenizer,
)
from nlpapp.text.sample_corpus import write_sample
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Config:
    """Go from text to a scored, distilled, exported model, with nothing downloaded.

    A stage that is complete is passed over when the command is started again.
    """

    output_dir: str = "runs/quickstart"
    """Folder for all stages; each is a run folder of its own."""
    seed: int = 42
    """Seed of every stage."""
    vocab_size: int = 6000
    """Pieces of the WordPiece tokenizer."""
    bert: BertSizeConfig = field(
        default_factory=lambda: BertSizeConfig(
            num_layers=2,
            hidden_size=128,
            num_heads=2,
            max_position_embeddings=128,
            dropout=0.0,
            initializer_range=0.09,
        )
    )
    """Size of the BERT; it has no time to overfit, so dropout would only slow it down."""
    pretraining_passes: int = 20
    """Passes over the corpus that make the pretraining data, each with other pairs and masks."""
    pretraining_steps: int = 2600
    """Optimizer steps of pretraining, of 32 pairs each."""
    finetuning_epochs: float = 6
    """Epochs of the teacher, pretrained and from random weights alike."""
    student: BiLstmSizeConfig = field(
        default_factory=lambda: BiLstmSizeConfig(
            embedding_size=128, hidden_size=64, classifier_size=64, pooling="max", dropout=0.3
        )
    )
    """Size of the BiLSTM student."""
    distillation_epochs: float = 8
    """Epochs of the student over the task's training texts."""
    augmentations: int = 4
    """Augmented texts that the teacher labels, drawn from each training text."""
    language_model: TransformerXLSizeConfig = field(
        default_factory=lambda: TransformerXLSizeConfig(
            num_layers=3, hidden_size=128, num_heads=4, inner_size=256, mem_len=64
        )
    )
    """Size of the Transformer-XL."""
    language_model_steps: int = 900
    """Optimizer steps of the language model."""


@dataclass(frozen=True)
class Stage:
    """One step of the chain: a recipe, its options, and its run folder below the output folder."""

    folder: str
    title: str
    recipe: Any
    options: dict[str, Any]


def stages(config: Config, root: Path) -> list[Stage]:
    """Return the stages in order; each reads what an earlier one left below ``root``."""
    corpus, task = root / "sample" / "corpus", root / "sample" / "task"
    tokenizer, bert, teacher = (
        str(root / name / "model") for name in ("tokenizer", "bert", "teacher")
    )
    files = {f"{split}_file": str(task / f"{split}.tsv") for split in ("train", "dev", "test")}
    pairs = {"tokenizer": tokenizer, "input_format": "lines", "max_seq_length": MAX_TOKENS}
    train, heldout = [str(corpus / "train.txt")], [str(corpus / "heldout.txt")]
    fine = files | {"model": bert, "max_seq_length": MAX_TOKENS, "batch_size": 32}
    fine["training"] = _training(4e-4, num_epochs=config.finetuning_epochs)
    taught = files | {"teacher": teacher, "max_seq_length": MAX_TOKENS, "student": config.student}
    taught |= {"embeddings": "teacher", "batch_size": 64}
    passes = 1 + config.augmentations
    alone = taught | {"objective": DistillationConfig(alpha=1.0)}
    alone["augmentation"] = AugmentationConfig(n_iter=0)
    # As many updates as with augmented texts, so that the teacher is all that differs.
    alone["training"] = _training(2e-3, num_epochs=config.distillation_epochs * passes)
    taught["augmentation"] = AugmentationConfig(n_iter=config.augmentations)
    taught["training"] = _training(2e-3, num_epochs=config.distillation_epochs)
    models = [root / name / "model" for name in ("teacher", "student")]
    bundles = [root / f"{name}-bundle" / "bundle" for name in ("teacher", "student")]
    pretraining = {
        "data": str(root / "pretraining-data"),
        "evaluation_data": str(root / "held-out-data"),
        "tokenizer": tokenizer,
        "size": config.bert,
        "batch_size": 32,
        "training": _training(2e-3, max_steps=config.pretraining_steps, evaluate_every=400),
    }
    language = {
        "train_file": str(corpus / "train.txt"),
        "valid_file": str(corpus / "dev.txt"),
        "test_file": str(corpus / "test.txt"),
        "vocabulary": tokenizer,
        "size": config.language_model,
        "training": _training(2e-3, max_steps=config.language_model_steps, evaluate_every=300),
    }
    return [
        Stage(
            "tokenizer",
            "train a WordPiece tokenizer",
            train_tokenizer,
            {"inputs": train, "input_format": "lines", "vocab_size": config.vocab_size},
        ),
        Stage(
            "pretraining-data",
            "make pretraining data",
            make_data,
            pairs
            | {"inputs": train, "dupe_factor": config.pretraining_passes, "short_seq_prob": 0.5},
        ),
        Stage(
            "held-out-data",
            "make held-out data",
            make_data,
            pairs | {"inputs": heldout, "dupe_factor": 1},
        ),
        Stage("bert", "pretrain a small BERT", pretrain, pretraining),
        Stage("teacher", "fine-tune it", finetune, fine),
        Stage(
            "teacher-from-scratch",
            "the same from random weights",
            finetune,
            fine | {"from_scratch": True},
        ),
        Stage("student", "distil it into a BiLSTM", distill, taught),
        Stage("student-hard-labels", "the same BiLSTM without a teacher", distill, alone),
        Stage("language-model", "train a Transformer-XL", train_lm, language),
        Stage("teacher-bundle", "export the teacher", export, {"model": teacher}),
        Stage("student-bundle", "export the student", export, {"model": str(models[1])}),
        Stage(
            "benchmark",
            "time teacher and student",
            benchmark,
            {"models": [str(path) for path in models + bundles], "file": files["test_file"]},
        ),
    ]


MAX_TOKENS = 128


def _training(learning_rate: float, **options: Any) -> TrainingConfig:
    return TrainingConfig(optimizer=OptimizerConfig(learning_rate=learning_rate), **options)


def run(config: Config) -> dict[str, float]:
    """Run the stages that are not complete yet, and write the page."""
    run = RunFolder.open(config.output_dir, config=config, command="quickstart", seed=config.seed)
    if run.finished is not None:
        return run.finished
    sample = run.path / "sample"
    write_sample(sample, seed=config.seed)
    chain = stages(config, run.path)
    results, seconds = {}, {}
    for number, stage in enumerate(chain, start=1):
        print(f"\n[{number}/{len(chain)}] {stage.title}", flush=True)
        start = time.monotonic()
        options = {"output_dir": str(run.path / stage.folder), "seed": config.seed} | stage.options
        results[stage.folder] = stage.recipe.run(stage.recipe.Config(**options))
        seconds[stage.folder] = time.monotonic() - start
    train, test = (read_examples(sample / "task" / f"{name}.tsv") for name in ("train", "test"))
    yardsticks = _yardsticks(train, test)
    found = claims(results, yardsticks)
    metrics = _metrics(results, yardsticks, held=sum(claim.holds for claim in found))
    page = write_chain_report(
        Chain(
            folder=run.path,
            claims=found,
            stages=[(stage.folder, stage.title, seconds[stage.folder]) for stage in chain],
            models=json.loads((run.path / "benchmark" / "benchmark.json").read_text("utf-8")),
            labels=test.label_names,
            confusions={
                name: (
                    read_predictions(run.path / name / "predictions-test.tsv", test.label_names),
                    test.known_labels,
                )
                for name in ("teacher", "student")
            },
            example=test.texts_a[0],
        )
    )
    print(f"\n{format_claims(found)}\n\nThe whole story: {page}")
    run.finish(metrics)
    return metrics


def _yardsticks(train: Examples, test: Examples) -> dict[str, float]:
    truth = [test.label_names[label] for label in test.known_labels]
    known = [train.label_names[label] for label in train.known_labels]
    return {
        "majority": majority_accuracy(truth),
        "tfidf": tfidf_accuracy(train.texts_a, known, test.texts_a, truth),
    }


def _metrics(
    results: dict[str, dict[str, float]], yardsticks: dict[str, float], *, held: int
) -> dict[str, float]:
    """Return the figures of all stages under one name each."""
    flat = {f"{stage}/{name}": x for stage, found in results.items() for name, x in found.items()}
    return {"claims_that_hold": float(held)} | yardsticks | flat
