"""The teachers of `nlpapp distill`: opened, and asked what they say of texts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nlpapp.data.classification import EncodedExamples, Examples, encode_for, evaluation_steps
from nlpapp.data.classification_sets import ClassificationSets
from nlpapp.data.transfer_set import TransferCollator, with_mask
from nlpapp.errors import ConfigError
from nlpapp.models.classifiers import local_folder
from nlpapp.models.teacher import Reader, load_teacher
from nlpapp.objectives.classification import forward_logits
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from nlpapp.training.evaluate import predict_rows
from nlpapp.training.fit import set_seed
from nlpapp.training.run_folder import RunFolder
from nlpapp.training.teacher_logits import cached_logits

if TYPE_CHECKING:
    from nlpapp.recipes.distill import Config


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
    texts: Examples,
    run: RunFolder,
    name: str,
) -> np.ndarray:
    """Return the (rows, classes) mean of the teachers' logits of ``texts``.

    These have the first teacher's mask token; each of the others reads its own in its place. Logits
    are kept in the folder that the options name, or as ``name`` in that of the run.
    """
    found = []
    shared = Path(config.teacher_logits) if config.teacher_logits is not None else None
    mask = teachers[0].tokenizer.mask_token
    for order, teacher in enumerate(teachers, start=1):
        read = encode(config, teacher, with_mask(texts, mask, teacher.tokenizer.mask_token))
        logits = cached_logits(
            shared or run.path / (name if order == 1 else f"{name}-{order}"),
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
