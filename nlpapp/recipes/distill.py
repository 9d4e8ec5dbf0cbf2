"""Distil classifiers into a small student (Tang et al. 2019, arXiv 1903.12136)."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from nlpapp.data.annealing import AnnealedSteps
from nlpapp.data.augmentation import AugmentationConfig
from nlpapp.data.classification_sets import ClassificationSets, SetOptions, sets_of
from nlpapp.data.sampling import ExampleSteps, StepData
from nlpapp.data.transfer_set import TransferCollator, build_transfer_set, join_parts
from nlpapp.evaluation.predictions import score_logits, write_predictions
from nlpapp.evaluation.student import report_student, score_student
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.bilstm import BiLstmSizeConfig
from nlpapp.models.pretrained import save_model_folder
from nlpapp.models.pruning import PruningConfig, weight_sizes
from nlpapp.models.student_bert import StudentBertConfig
from nlpapp.models.teacher import Reader
from nlpapp.models.text_cnn import TextCnnSizeConfig
from nlpapp.objectives.distillation import DistillationConfig
from nlpapp.recipes.distill_options import check_options
from nlpapp.recipes.distill_pruning import prune_student
from nlpapp.recipes.distill_student import build_objective, build_student
from nlpapp.recipes.distill_teachers import ask, encode, load_teachers, predict
from nlpapp.text.student_vocabulary import StudentVocabularyConfig
from nlpapp.text.wordpiece import fingerprint
from nlpapp.training.fit import TrainingConfig, fit
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Config(SetOptions):
    """Train a small student on what classifiers say, on labels, or on both."""

    output_dir: str
    """Folder for checkpoints, metrics, predictions and the model."""
    teacher: list[str] | str | None = None
    """Classifier to learn from, a folder or a Hub name, or several, whose logits are averaged; the
    first gives the tokenizer, embeddings and layers. Absent: a random BERT, to try this out."""
    teacher_logits: str | None = None
    """Folder for the teachers' logits, where other runs with the same teacher and texts find them;
    absent: output_dir."""
    tokenizer: str | None = None
    """Tokenizer of the teacher, a folder or vocab.txt; absent: the one in its folder."""
    size: BertSizeConfig = field(default_factory=BertSizeConfig)
    """Size of the random BERT where no teacher is given."""
    architecture: Literal["bilstm", "text_cnn", "bert"] = "bilstm"
    """The student: a BiLSTM, a convolutional network, or layers of the teacher."""
    student: BiLstmSizeConfig = field(default_factory=BiLstmSizeConfig)
    """Size of a BiLSTM."""
    text_cnn: TextCnnSizeConfig = field(default_factory=TextCnnSizeConfig)
    """Size of a TextCNN."""
    bert: StudentBertConfig = field(default_factory=StudentBertConfig)
    """Layers of a BERT student."""
    vocabulary: StudentVocabularyConfig = field(default_factory=StudentVocabularyConfig)
    """What the student reads: the teacher's pieces, or a vocabulary of its own."""
    embeddings: str = "random"
    """Start of the student's word embeddings: random; teacher, its own fitted in width by PCA; or a
    file of GloVe or word2vec vectors."""
    objective: DistillationConfig = field(default_factory=DistillationConfig)
    """What the student learns; alpha 1: the labels alone, and the teacher is not asked."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """New texts made from the training texts; the teacher says what they mean."""
    pruning: PruningConfig = field(default_factory=PruningConfig)
    """Weights of the trained student that become zero."""
    unlabeled_file: list[str] | str | None = None
    """File, or files, with more text for the teacher, one a line; for pairs two texts with a tab
    between them."""
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
        check_options(self)

    @property
    def teachers(self) -> list[str]:
        """The teachers that are given, in their order."""
        return _as_list(self.teacher)

    @property
    def unlabeled_files(self) -> list[str]:
        """The files with more text that are given, in their order."""
        return _as_list(self.unlabeled_file)


def _as_list(value: list[str] | str | None) -> list[str]:
    return [value] if isinstance(value, str) else value or []


def run(config: Config) -> dict[str, float]:
    """Ask the teachers, train the student, and compare both."""
    run = RunFolder.open(config.output_dir, config=config, command="distill", seed=config.seed)
    if run.finished is not None:
        return run.finished
    sets = sets_of(config)
    teachers = load_teachers(config, sets)
    student = build_student(config, sets, teachers[0])
    metrics = {
        "parameters": float(student.model.num_parameters()),
        "teacher_parameters": float(sum(teacher.model.num_parameters() for teacher in teachers)),
        "vocabulary_size": float(len(student.tokenizer)),
    }
    metrics |= _train(run, config, sets, teachers, student)
    for order, (split, examples) in enumerate((sets.dev | sets.test).items()):
        found = predict(config, student, encode(config, student, examples))
        if examples.labels is not None:
            taught = None
            if config.objective.alpha < 1:
                taught = ask(config, teachers, examples, run, f"teacher-logits-{split}")
            figures = score_student(found, taught, examples.labels, sets.metrics, seed=config.seed)
            metrics |= {f"{split}_{name}" if order else name: x for name, x in figures.items()}
        if run.is_main:
            path = run.path / f"predictions-{split if order else 'dev'}.tsv"
            write_predictions(path, found, sets.label_names, examples.labels)
    if run.is_main:
        known_by = {"tokenizer": student.tokenizer, "fingerprint": fingerprint(student.tokenizer)}
        save_model_folder(student.model, run.model, **known_by)
        source = "labels alone" if config.objective.alpha == 1 else " and ".join(config.teachers)
        report_student(run.path, run.model, teacher=source or "a random BERT", metrics=metrics)
    run.finish(metrics)
    return metrics


def _train(
    run: RunFolder,
    config: Config,
    sets: ClassificationSets,
    teachers: list[Reader],
    student: Reader,
) -> dict[str, float]:
    """Train ``student`` on the transfer set and the teachers' logits of it."""
    extra = (config.augmentation, config.unlabeled_files, teachers[0].tokenizer.mask_token or "")
    parts = build_transfer_set(sets.train, *extra, seed=config.seed)
    logits = None
    if config.objective.alpha < 1:
        logits = np.concatenate(
            [
                ask(config, teachers, part, run, f"teacher-logits-part-{number}")
                for number, part in enumerate(parts, start=1)
            ]
        )
    transfer = join_parts(parts)
    encoded = encode(config, student, transfer)
    collate = TransferCollator(encoded, student.tokenizer.pad_token_id, logits)
    plain = ExampleSteps(
        len(encoded),
        collate,
        batch_size=config.batch_size,
        seed=config.seed,
        lengths=encoded.lengths,
    )
    steps: StepData = plain
    if config.objective.final_alpha is not None:
        steps = AnnealedSteps(plain, config.training.total_steps(plain))
    dev = next(iter(sets.dev.values()))
    read_dev = encode(config, student, dev)
    objective = build_objective(config, teachers[0], student)

    def train(run: RunFolder, training: TrainingConfig) -> dict[str, float]:
        return fit(
            run=run,
            model=student.model,
            objective=objective,
            steps=steps,
            training=training,
            seed=config.seed,
            evaluate=lambda model: score_logits(
                predict(config, replace(student, model=model), read_dev),
                *(dev.known_labels, sets.metrics),
            ),
            best_metric=sets.metrics[0],
            fingerprint=fingerprint(student.tokenizer),
        )

    metrics = train(run, config.training) | {"transfer_rows": float(len(transfer))}
    if config.pruning.sparsity:
        metrics |= {f"{name}_before_pruning": metrics[name] for name in sets.metrics}
        prune_student(run, config.pruning, config.training, student.model, train)
    return metrics | weight_sizes(student.model)
