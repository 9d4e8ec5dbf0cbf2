"""The models of `nlpapp multitask`: the one that all tasks share, and their teachers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nlpapp.data.classification import EncodedExamples, encode_for, evaluation_steps
from nlpapp.data.task_mixture import TASK
from nlpapp.data.transfer_set import TransferCollator
from nlpapp.errors import ConfigError
from nlpapp.models.bilstm import build_bilstm
from nlpapp.models.classifiers import build_classifier, local_folder, set_dropout
from nlpapp.models.multitask import MultiTaskClassifier
from nlpapp.models.pretrained import check_sequence_length, check_tokenizer_fits
from nlpapp.models.teacher import load_teacher
from nlpapp.objectives.classification import forward_logits
from nlpapp.objectives.distillation import DistillationObjective
from nlpapp.objectives.multitask import MultiTaskObjective
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from nlpapp.training.evaluate import predict_rows
from nlpapp.training.fit import set_seed
from nlpapp.training.teacher_logits import cached_logits

if TYPE_CHECKING:
    from nlpapp.recipes.multitask import Config
    from nlpapp.recipes.multitask_tasks import Task


def build_model(config: "Config", tasks: Sequence["Task"]) -> tuple[Any, MultiTaskClassifier]:
    """Return the tokenizer and the untrained model.

    Raises:
        ConfigError: the tokenizer or max_seq_length does not fit the model.
        CheckpointError: the folder of the model holds none, or a damaged one.
    """
    folder = local_folder(config.model) if config.model is not None else None
    tokenizer = load_tokenizer(config.tokenizer or str(folder))
    set_seed(config.seed, "weights")
    ends = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    classifiers = {}
    for task in tasks:
        names = task.sets.label_names
        if config.architecture == "bilstm":
            siamese = {"siamese": task.sets.pairs}
            built: Any = build_bilstm(config.bilstm, label_names=names, **siamese, **ends)
        else:
            built = build_classifier(folder, label_names=names, size=config.size, **ends)
        classifiers[task.name] = built
    model = MultiTaskClassifier.of(classifiers)
    if config.dropout is not None:
        set_dropout(model, config.dropout)
    check_sequence_length(model.classifier(0), config.max_seq_length)
    check_tokenizer_fits(
        model.classifier(0), vocab_size=len(tokenizer), fingerprint=fingerprint(tokenizer)
    )
    return tokenizer, model


def ask_teacher(config: "Config", task: "Task", folder: Path) -> dict[str, np.ndarray]:
    """Return the (rows, C) logits of the task's teacher for each set that has labels.

    Those for "train" are kept in ``folder``, and read from there if they are of the same teacher
    and texts.

    Raises:
        ConfigError: the teacher has other classes than the task's data, or no room for its texts.
        CheckpointError: it is no classifier, or damaged.
    """
    source = local_folder(str(task.options.teacher))
    tokenizer = load_tokenizer(str(source))
    pad, size = tokenizer.pad_token_id, config.evaluation_batch_size
    length = config.max_seq_length
    try:
        model, outputs = load_teacher(
            source,
            label_names=task.sets.label_names,
            size=config.size,
            vocab_size=len(tokenizer),
            pad_token_id=pad,
            fingerprint=fingerprint(tokenizer),
            max_seq_length=length,
        )
    except ConfigError as error:
        raise ConfigError(f"the teacher of {task.name}, {source}: {error}") from error
    train = encode_for(model, tokenizer, task.sets.train, max_seq_length=length)
    found = {
        "train": cached_logits(
            folder / "teacher-logits",
            model=model,
            forward=forward_logits,
            collate=TransferCollator(train, pad, None),
            token_ids=[*train.input_ids, *(train.input_ids_b or ())],
            lengths=train.lengths,
            batch_size=size,
        )[:, outputs]
    }
    for split, examples in (task.sets.dev | task.sets.test).items():
        if examples.labels is not None:
            read = encode_for(model, tokenizer, examples, max_seq_length=length)
            steps, undo = evaluation_steps(read, pad, batch_size=size)
            found[split] = predict_rows(model, forward_logits, steps)[undo][:, outputs]
    return found


def predict(
    config: "Config",
    model: MultiTaskClassifier,
    task: str,
    encoded: EncodedExamples,
    pad_token_id: int,
) -> np.ndarray:
    """Return the (N, C) logits of one task from the model of all."""
    number = torch.tensor(model.task_names.index(task))

    def forward(model: Any, batch: Any) -> torch.Tensor:
        return forward_logits(model, batch | {TASK: number})

    steps, undo = evaluation_steps(encoded, pad_token_id, batch_size=config.evaluation_batch_size)
    return predict_rows(model, forward, steps)[undo]


def build_objective(config: "Config", tasks: Sequence["Task"]) -> MultiTaskObjective:
    """Return what is minimised: a task without a teacher learns its labels alone.

    Of scores there is no kl, so their teacher term is the squared error, as in BAM.
    """
    options = config.objective
    found = {}
    for task in tasks:
        taught, scores = task.options.teacher is not None, not task.sets.label_names
        found[task.name] = DistillationObjective(
            teacher_loss="mse" if scores else options.teacher_loss,
            temperature=options.temperature,
            alpha=options.alpha if taught else 1.0,
            final_alpha=options.final_alpha if taught else None,
            label_smoothing=options.label_smoothing,
        )
    return MultiTaskObjective(found)
