"""The models of `nlpapp distill`: teachers and student, each with what reads text for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nlpapp.data.classification import EncodedExamples, Examples, encode_for, evaluation_steps
from nlpapp.data.classification_sets import ClassificationSets
from nlpapp.data.transfer_set import TransferCollator, read_unlabeled, with_mask
from nlpapp.errors import ConfigError
from nlpapp.models.bilstm import build_bilstm
from nlpapp.models.classifiers import local_folder
from nlpapp.models.student_bert import build_student_bert, layer_map, transformer_layers
from nlpapp.models.teacher import load_teacher
from nlpapp.models.text_cnn import build_text_cnn
from nlpapp.models.word_embeddings import start_embeddings
from nlpapp.objectives.classification import forward_logits
from nlpapp.objectives.distillation import DistillationObjective
from nlpapp.objectives.layer_distillation import LayerLoss
from nlpapp.text.student_vocabulary import student_tokenizer
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from nlpapp.training.evaluate import predict_rows
from nlpapp.training.fit import set_seed
from nlpapp.training.run_folder import RunFolder
from nlpapp.training.teacher_logits import cached_logits

if TYPE_CHECKING:
    from nlpapp.recipes.distill import Config


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A model with its tokenizer, and its outputs for the data's classes in order."""

    model: Any
    tokenizer: Any
    outputs: list[int]


def load_teachers(config: "Config", sets: ClassificationSets) -> list[Reader]:
    """Open the teachers, or a random BERT where none is given.

    Raises:
        ConfigError: neither a teacher nor a tokenizer is given, one has no mask token for the
            augmentation, or as `load_teacher`.
    """
    if not config.teachers and config.tokenizer is None:
        raise ConfigError("give --teacher, or --tokenizer for a random BERT of --size.")
    names: list[str | None] = [*config.teachers] or [None]
    found = []
    for name in names:
        folder = local_folder(name) if name is not None else None
        tokenizer = load_tokenizer(config.tokenizer or str(folder))
        if tokenizer.mask_token is None and config.augmentation.n_iter * config.augmentation.p_mask:
            raise ConfigError(
                f"the tokenizer of {config.tokenizer or folder} has no mask token for the words "
                f"that augmentation.p_mask {config.augmentation.p_mask} masks: set it 0, or "
                "augmentation.n_iter 0."
            )
        set_seed(config.seed, "teacher")
        model, outputs = load_teacher(
            folder,
            label_names=sets.label_names,
            size=config.size,
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            fingerprint=fingerprint(tokenizer),
            max_seq_length=config.max_seq_length,
        )
        found.append(Reader(model=model, tokenizer=tokenizer, outputs=outputs))
    return found


def build_student(config: "Config", sets: ClassificationSets, teacher: Reader) -> Reader:
    """Return the untrained student; its vocabulary is made of all texts but the augmented.

    Raises:
        ConfigError: options that the data or the teacher do not allow.
        DataError: as `read_unlabeled`.
    """
    if not sets.label_names and config.objective.teacher_loss == "kl":
        raise ConfigError(
            "the labels are scores, which have no kl: use objective.teacher_loss mse."
        )
    if not sets.label_names and config.objective.label_smoothing:
        raise ConfigError("the labels are scores: leave objective.label_smoothing out.")
    set_seed(config.seed, "weights")
    outputs = list(range(len(teacher.outputs)))
    if config.architecture == "bert":
        model = build_student_bert(
            teacher.model,
            config.bert.layers,
            label_names=sets.label_names,
            outputs=teacher.outputs,
        )
        return Reader(model=model, tokenizer=teacher.tokenizer, outputs=outputs)
    texts = [*sets.train.texts_a, *(sets.train.texts_b or ())]
    if config.unlabeled_file is not None and config.vocabulary.kind != "teacher":
        more, seconds = read_unlabeled(config.unlabeled_file, pairs=sets.pairs)
        texts += [*more, *(seconds or ())]
    tokenizer = student_tokenizer(config.vocabulary, teacher.tokenizer, texts)
    ends: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "label_names": sets.label_names,
        "siamese": sets.pairs,
    }
    if config.architecture == "bilstm":
        student: Any = build_bilstm(config.student, **ends)
    else:
        student = build_text_cnn(config.text_cnn, **ends)
    start_embeddings(
        student,
        config.embeddings,
        tokenizer=tokenizer,
        teacher=teacher.model,
        teacher_tokenizer=teacher.tokenizer,
    )
    return Reader(model=student, tokenizer=tokenizer, outputs=outputs)


def build_objective(config: "Config", teacher: Any, student: Any) -> DistillationObjective:
    """Return what the student minimises; ``teacher`` shows its layers where they are asked for."""
    options = config.objective
    layers = None
    if options.uses_layers:
        depths = [len(transformer_layers(model)) for model in (student, teacher)]
        if options.attention_weight:
            for model in (student, teacher):  # other implementations keep their maps to themselves
                model.set_attn_implementation("eager")
        layers = LayerLoss(
            teacher,
            layer_map(config.bert.layer_map, *depths),
            hidden_weight=options.hidden_weight,
            hidden_loss=options.hidden_loss,
            attention_weight=options.attention_weight,
            attention_loss=options.attention_loss,
        )
    return DistillationObjective(
        teacher_loss=options.teacher_loss,
        temperature=options.temperature,
        alpha=options.alpha,
        final_alpha=options.final_alpha,
        label_smoothing=options.label_smoothing,
        layers=layers,
    )


def encode(config: "Config", reader: Reader, examples: Examples) -> EncodedExamples:
    """Return ``examples`` as ``reader`` reads them."""
    length = config.max_seq_length
    return encode_for(reader.model, reader.tokenizer, examples, max_seq_length=length)


def predict(config: "Config", reader: Reader, encoded: EncodedExamples) -> np.ndarray:
    """Return (N, C) logits for the data's classes in order."""
    steps, undo = evaluation_steps(
        encoded, reader.tokenizer.pad_token_id, batch_size=config.evaluation_batch_size
    )
    return predict_rows(reader.model, forward_logits, steps)[undo][:, reader.outputs]


def ask(
    config: "Config",
    teachers: Sequence[Reader],
    transfer: Examples,
    run: RunFolder,
    shared: Path | None,
) -> np.ndarray:
    """Return the (rows, classes) mean of the teachers' logits.

    ``transfer`` has the first teacher's mask token; each of the others reads its own in its place.
    Their logits are kept in the folder ``shared``, or of its own run; see `cached_logits`.
    """
    found = []
    mask = teachers[0].tokenizer.mask_token
    for order, teacher in enumerate(teachers, start=1):
        read = encode(config, teacher, with_mask(transfer, mask, teacher.tokenizer.mask_token))
        logits = cached_logits(
            shared or run.path / ("teacher-logits" if order == 1 else f"teacher-logits-{order}"),
            model=teacher.model,
            forward=forward_logits,
            collate=TransferCollator(read, teacher.tokenizer.pad_token_id, None),
            token_ids=[*read.input_ids, *(read.input_ids_b or ())],
            lengths=read.lengths,
            batch_size=config.evaluation_batch_size,
            shared=shared is not None,
        )
        found.append(logits[:, teacher.outputs])
    return np.mean(found, axis=0)
