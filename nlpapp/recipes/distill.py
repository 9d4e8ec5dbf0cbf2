"""Distil a classifier into a BiLSTM (Tang et al. 2019, arXiv 1903.12136)."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from nlpapp.data.augmentation import AugmentationConfig
from nlpapp.data.classification import EncodedExamples, Examples, evaluation_steps
from nlpapp.data.classification_sets import ClassificationSets, read_sets
from nlpapp.data.sampling import ExampleSteps
from nlpapp.data.transfer_set import TransferCollator, build_transfer_set
from nlpapp.errors import ConfigError
from nlpapp.evaluation.predictions import score_logits, write_predictions
from nlpapp.evaluation.student import report_student, score_student
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.bilstm import BiLstmSizeConfig, build_bilstm
from nlpapp.models.classifiers import align_labels, label_names_of, local_folder, open_classifier
from nlpapp.models.pretrained import check_sequence_length, check_tokenizer_fits, save_model_folder
from nlpapp.objectives.classification import forward_logits
from nlpapp.objectives.distillation import DistillationConfig, DistillationObjective
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from nlpapp.training.evaluate import predict_rows
from nlpapp.training.fit import TrainingConfig, fit, set_seed
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.run_folder import RunFolder
from nlpapp.training.teacher_logits import cached_logits

SET_OPTIONS = (
    *("task", "data_dir", "train_file", "dev_file", "test_file"),
    *("text_column", "text_pair_column", "label_column"),
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a small BiLSTM on what a classifier says, on labels, or on both."""

    output_dir: str
    """Folder for checkpoints, the teacher's logits, metrics, predictions and the model."""
    teacher: str | None = None
    """Classifier to learn from: a folder or a Hub name; absent: a random BERT, to try this out."""
    tokenizer: str | None = None
    """Tokenizer of both models, a folder or vocab.txt; absent: the one in the teacher's folder."""
    size: BertSizeConfig = field(default_factory=BertSizeConfig)
    """Size of the random BERT where no teacher is given."""
    student: BiLstmSizeConfig = field(default_factory=BiLstmSizeConfig)
    """Size of the student."""
    embeddings: Literal["random", "teacher"] = "random"
    """Start of the student's word embeddings: random, or the teacher's, fitted in width by PCA."""
    objective: DistillationConfig = field(default_factory=DistillationConfig)
    """What the student learns; alpha 1: the labels alone, and the teacher is not asked."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """New texts made from the training texts; the teacher says what they mean."""
    unlabeled_file: str | None = None
    """More text for the teacher, one a line; for pairs two texts with a tab between them."""
    task: str | None = None
    """GLUE task: cola, sst2, mrpc, qqp, mnli, qnli, rte or wnli."""
    data_dir: str | None = None
    """Folder with GLUE (official files, or parquet as on the Hub), or nyu-mll/glue."""
    train_file: str | None = None
    """Training file of one's own instead of a task: TSV, CSV or JSONL with named columns."""
    dev_file: str | None = None
    """File that chooses the best epoch, same columns as train_file."""
    test_file: str | None = None
    """File to predict at the end; scored if it has labels."""
    text_column: str | None = None
    """Column of the text; absent: sentence, text, sentence1 or text_a."""
    text_pair_column: str | None = None
    """Column of the second text of a pair; absent: sentence2 or text_b, if text_column is too."""
    label_column: str | None = None
    """Column of the label; absent: label."""
    max_seq_length: int = 128
    """Tokens, special ones included; longer texts are cut."""
    batch_size: int = 64
    """Examples in one optimizer step, over all processes and micro-batches."""
    evaluation_batch_size: int = 64
    """Examples in one batch of evaluation, and of the teacher."""
    seed: int = 42
    """Seed of the student's weights, augmentation, order and dropout."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(optimizer=OptimizerConfig(learning_rate=1e-3))
    )
    """How long and how to train."""

    def __post_init__(self) -> None:
        if self.objective.alpha == 1 and (self.augmentation.n_iter or self.unlabeled_file):
            raise ConfigError(
                "objective.alpha 1 learns from labels alone, and texts from augmentation or "
                "unlabeled_file have none: set augmentation.n_iter 0, and no unlabeled_file."
            )


def run(config: Config) -> dict[str, float]:
    """Ask the teacher, train the student, and compare the two."""
    run = RunFolder.open(config.output_dir, config=config, command="distill", seed=config.seed)
    if run.finished is not None:
        return run.finished
    sets = read_sets(**{name: getattr(config, name) for name in SET_OPTIONS})
    tokenizer, teacher, outputs = _load_teacher(config, sets)
    words = teacher.get_input_embeddings() if config.embeddings == "teacher" else None
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    set_seed(config.seed, "weights")
    student = build_bilstm(
        config.student, label_names=sets.label_names, siamese=sets.pairs, start=words, **vocabulary
    )
    metrics = _train(run, config, sets, tokenizer, teacher, outputs, student)
    for order, (split, examples) in enumerate((sets.dev | sets.test).items()):
        read = _encode(config, tokenizer, student, examples)
        found = _predict(config, tokenizer, student, read)
        if examples.labels is not None:
            taught = None
            if config.objective.alpha < 1:
                read = _encode(config, tokenizer, teacher, examples)
                taught = _predict(config, tokenizer, teacher, read)[:, outputs]
            figures = score_student(found, taught, examples.labels, sets.metrics, seed=config.seed)
            metrics |= {f"{split}_{name}" if order else name: x for name, x in figures.items()}
        if run.is_main:
            path = run.path / f"predictions-{split if order else 'dev'}.tsv"
            write_predictions(path, found, sets.label_names, examples.labels)
    if run.is_main:
        known_by = {"tokenizer": tokenizer, "fingerprint": fingerprint(tokenizer)}
        save_model_folder(student, run.model, **known_by)
        source = "labels alone" if config.objective.alpha == 1 else config.teacher
        report_student(run.path, run.model, teacher=source or "a random BERT", metrics=metrics)
    run.finish(metrics)
    return metrics


def _load_teacher(config: Config, sets: ClassificationSets) -> tuple[Any, Any, list[int]]:
    """Return the tokenizer, the teacher, and its outputs for the data's classes, in order."""
    if not sets.label_names:
        raise ConfigError("distill learns classes; the labels of this data are scores.")
    if config.teacher is None and config.tokenizer is None:
        raise ConfigError("give --teacher, or --tokenizer for a random BERT of --size.")
    folder = local_folder(config.teacher) if config.teacher is not None else None
    tokenizer = load_tokenizer(config.tokenizer or str(folder))
    vocabulary = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    set_seed(config.seed, "teacher")
    model = open_classifier(folder, label_names=sets.label_names, size=config.size, **vocabulary)
    check_sequence_length(model, config.max_seq_length)
    check_tokenizer_fits(model, vocab_size=len(tokenizer), fingerprint=fingerprint(tokenizer))
    return tokenizer, model, align_labels(label_names_of(model), sets.label_names)


def _encode(config: Config, tokenizer: Any, model: Any, examples: Examples) -> EncodedExamples:
    length, siamese = config.max_seq_length, getattr(model.config, "siamese", False)
    return EncodedExamples(examples, tokenizer, max_seq_length=length, separate_pair=siamese)


def _predict(config: Config, tokenizer: Any, model: Any, encoded: EncodedExamples) -> np.ndarray:
    size = config.evaluation_batch_size
    steps, undo = evaluation_steps(encoded, tokenizer.pad_token_id, batch_size=size)
    return predict_rows(model, forward_logits, steps)[undo]


def _train(
    run: RunFolder,
    config: Config,
    sets: ClassificationSets,
    tokenizer: Any,
    teacher: Any,
    outputs: list[int],
    student: Any,
) -> dict[str, float]:
    """Train ``student`` on the transfer set and the teacher's logits of it."""
    extra = (config.augmentation, config.unlabeled_file, tokenizer.mask_token)
    transfer = build_transfer_set(sets.train, *extra, seed=config.seed)
    encoded = _encode(config, tokenizer, student, transfer)
    logits = None
    if config.objective.alpha < 1:
        read = _encode(config, tokenizer, teacher, transfer) if sets.pairs else encoded
        logits = cached_logits(
            run.path / "teacher-logits",
            model=teacher,
            forward=forward_logits,
            collate=TransferCollator(read, tokenizer.pad_token_id, None),
            token_ids=[*read.input_ids, *(read.input_ids_b or ())],
            lengths=read.lengths,
            batch_size=config.evaluation_batch_size,
        )[:, outputs]
    dev = next(iter(sets.dev.values()))
    read_dev = _encode(config, tokenizer, student, dev)
    collate, lengths = TransferCollator(encoded, tokenizer.pad_token_id, logits), encoded.lengths
    metrics = fit(
        run=run,
        model=student,
        objective=DistillationObjective(**asdict(config.objective)),
        steps=ExampleSteps(
            len(encoded), collate, batch_size=config.batch_size, seed=config.seed, lengths=lengths
        ),
        training=config.training,
        seed=config.seed,
        evaluate=lambda model: score_logits(
            _predict(config, tokenizer, model, read_dev), dev.known_labels, sets.metrics
        ),
        best_metric=sets.metrics[0],
        fingerprint=fingerprint(tokenizer),
    )
    return metrics | {"transfer_rows": float(len(transfer))}
