"""The stages of the quickstart: a table of recipes and their options."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlpapp.data.augmentation import AugmentationConfig
from nlpapp.models.bert_size import BertSizeConfig
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
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.optimizers import OptimizerConfig

MAX_TOKENS = 96
"""Longest input of every model of the chain; a passage of the task has about 70."""


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
            num_layers=4,
            hidden_size=128,
            num_heads=2,
            max_position_embeddings=128,
            dropout=0.0,
            initializer_range=0.056,
            similarity_start=True,
        )
    )
    """Size of the BERT; it has no time to overfit, so dropout would only slow it down."""
    pretraining_passes: int = 20
    """Passes over the corpus that make the pretraining data, each with other pairs and masks."""
    pretraining_steps: int = 1800
    """Optimizer steps of pretraining, of 32 pairs each."""
    finetuning_epochs: float = 3
    """Epochs of the teacher, pretrained and from random weights alike."""
    student: BiLstmSizeConfig = field(
        default_factory=lambda: BiLstmSizeConfig(
            embedding_size=128, hidden_size=64, classifier_size=64, pooling="max", dropout=0.3
        )
    )
    """Size of the BiLSTM student."""
    distillation_epochs: float = 4
    """Epochs of the student over the task's training texts."""
    augmentations: int = 4
    """Augmented texts that the teacher labels, drawn from each training text."""
    language_model: TransformerXLSizeConfig = field(
        # Smaller weights stay with the frequencies of words for longer than there is time.
        default_factory=lambda: TransformerXLSizeConfig(
            num_layers=3,
            hidden_size=128,
            num_heads=4,
            inner_size=256,
            mem_len=64,
            initializer_range=0.06,
            pre_norm=True,
        )
    )
    """Size of the Transformer-XL."""
    language_model_steps: int = 450
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
    fine = files | {"model": bert, "max_seq_length": MAX_TOKENS, "dropout": 0.1}
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
        "word_start": True,
        "batch_size": 32,
        "training": _training(1.5e-3, 0.98, max_steps=config.pretraining_steps, evaluate_every=400),
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
            {
                "models": [str(path) for path in models + bundles],
                "file": files["test_file"],
                "loads": 1,
                "batch_sizes": [8, 32],
            },
        ),
    ]


def _training(learning_rate: float, beta2: float = 0.999, **options: Any) -> TrainingConfig:
    optimizer = OptimizerConfig(learning_rate=learning_rate, beta2=beta2)
    return TrainingConfig(optimizer=optimizer, **options)
