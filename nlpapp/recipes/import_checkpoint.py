"""Turn a Transformer-XL of its authors or of transformers 4 into a model of this program."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nlpapp.errors import CheckpointError, ConfigError, DataError
from nlpapp.models.pretrained import save_model_folder
from nlpapp.models.transformer_xl import check_mem_len
from nlpapp.models.transformer_xl_import import (
    find_weights,
    import_transformer_xl,
    read_weights,
)
from nlpapp.text.vocabulary import SymbolVocabulary
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger("nlpapp")

STATE_DICT_OPTIONS = ("mem_len", "clamp_len", "same_length", "pre_norm", "cutoffs", "num_heads")
VOCABULARY_FILES = ("vocab.txt", "vocab.bin", "vocab.pkl")
"""What a folder of transformers may hold, the safest one first."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Turn a Transformer-XL of its authors or of transformers 4 into a model of this program.

    No pickled code is run: of the original only a state dict can be read, not the model.pt that it
    writes itself, which is a pickled object.
    """

    source: str
    """A transfo-xl folder of the Hub (config.json and weights), or a file with a state dict of the
    original code."""
    output_dir: str
    """Folder for the run; the model is its model/."""
    vocabulary: str | None = None
    """A text file with one entry a line, in the order of the ids, or the vocab.bin of transformers;
    absent: the vocab.txt or vocab.bin in the folder."""
    mem_len: int | None = None
    """Positions of memory; a state dict needs it, a folder has its own."""
    clamp_len: int | None = None
    """Of a state dict: distances beyond it count as it, as in training; absent: no limit."""
    same_length: bool = False
    """Of a state dict: trained with same_length."""
    pre_norm: bool = False
    """Of a state dict: trained with pre_lnorm."""
    cutoffs: list[int] | None = None
    """Of a state dict: the adaptive softmax's cutoffs; needed only where div_val was 1."""
    num_heads: int | None = None
    """Of a state dict: attention heads; needed only with absolute positions."""

    def __post_init__(self) -> None:
        """Refuse a negative memory before any file is read."""
        check_mem_len(self.mem_len or 0)


def run(config: Config) -> dict[str, float]:
    """Convert weights and vocabulary, and save them as a model folder."""
    run = RunFolder.open(config.output_dir, config=config, command="import-checkpoint", seed=0)
    if run.finished is not None:
        return run.finished
    source = Path(config.source)
    if source.is_dir():
        _check_folder_options(config)
        options, weights = folder_options(source), find_weights(source)
    else:
        options, weights = state_dict_options(config), source
    model = import_transformer_xl(read_weights(weights), **options)
    vocabulary = read_vocabulary(
        Path(config.vocabulary) if config.vocabulary else find_vocabulary(source),
        expected=model.config.vocab_size,
    )
    save_model_folder(model, run.model, tokenizer=vocabulary, fingerprint=vocabulary.fingerprint())
    metrics = {"parameters": float(model.num_parameters()), "vocab_size": float(len(vocabulary))}
    logger.info(
        "%s: %d layers, %d wide, %d entries of vocabulary, memory of %d positions",
        run.model, model.config.num_hidden_layers, model.config.hidden_size, len(vocabulary),
        model.config.mem_len,
    )  # fmt: skip
    run.finish(metrics)
    return metrics


def _check_folder_options(config: Config) -> None:
    given = [
        name
        for name in STATE_DICT_OPTIONS
        if getattr(config, name) is not None and getattr(config, name) is not False
    ]
    if given:
        raise ConfigError(
            f"{', '.join(given)}: {config.source} has its own in config.json; leave them out. A "
            "mem_len can be given to evaluate-lm and generate."
        )


def state_dict_options(config: Config) -> dict[str, Any]:
    """Return the arguments of `import_transformer_xl` that a state dict leaves to its user."""
    if config.mem_len is None:
        raise ConfigError("mem_len: a state dict does not tell it; give the one of training.")
    if config.vocabulary is None:
        raise ConfigError(
            "vocabulary: a state dict has none; give a text file with one entry a line, in the "
            "order of the ids."
        )
    return {name: getattr(config, name) for name in STATE_DICT_OPTIONS}


def folder_options(folder: Path) -> dict[str, Any]:
    """Return the arguments of `import_transformer_xl` that the config.json of ``folder`` tells.

    Raises:
        CheckpointError: there is none, or it is of another model.
    """
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if settings.get("model_type") != "transfo-xl":
        raise CheckpointError(
            f"{path} is of a '{settings.get('model_type')}' model; expected transfo-xl. Other "
            "models need no import: transformers loads them."
        )
    # These were the defaults of transformers, which old files leave out.
    vocabulary = settings.get("vocab_size", 267735)
    cutoffs = settings.get("cutoffs", [20000, 40000, 200000])
    clamp_len = settings.get("clamp_len", 1000)
    return {
        "mem_len": settings.get("mem_len", 1600),
        "clamp_len": clamp_len if clamp_len > 0 else None,
        "same_length": settings.get("same_length", True),
        "pre_norm": settings.get("pre_lnorm", False),
        "cutoffs": [cutoff for cutoff in cutoffs if cutoff < vocabulary],
        "dropout": settings.get("dropout", 0.1),
        "attention_dropout": settings.get("dropatt", 0.0),
    }


def find_vocabulary(folder: Path) -> Path:
    """Return the file of ``folder`` that holds its vocabulary; DataError if there is none."""
    for name in VOCABULARY_FILES:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder} holds no vocabulary: expected {' or '.join(VOCABULARY_FILES)}. Give a text file "
        "with one entry a line, in the order of the ids: --vocabulary."
    )


def read_vocabulary(path: Path, *, expected: int) -> SymbolVocabulary:
    """Return the words in ``path`` as a vocabulary of ``expected`` entries.

    Args:
        path: a text file with one entry a line, or what torch.save wrote of the tokenizer of
            transformers (plain lists and dicts alone: no code in it is run).
        expected: V.

    Raises:
        DataError: it cannot be read, or has another number of entries, or no <eos>.
    """
    symbols = _text_lines(path) if path.suffix not in (".pkl", ".bin", ".pt") else _saved(path)
    if len(symbols) != expected:
        raise DataError(f"{path} has {len(symbols)} entries, but the model has {expected}.")
    try:
        return SymbolVocabulary("words", symbols)
    except DataError as error:
        raise DataError(
            f"{path}: {error} Vocabularies of bytes or characters without it, as the original code "
            "makes of enwik8 and text8, cannot be imported."
        ) from None


def _text_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the vocabulary {path}: {error}.") from error
    symbols = [line.strip() for line in lines]
    return symbols[:-1] if symbols[-1] == "" else symbols


def _saved(path: Path) -> list[str]:
    """Return the entry ``idx2sym`` of what torch.save wrote."""
    try:
        return [str(symbol) for symbol in torch.load(path, weights_only=True)["idx2sym"]]
    except Exception as error:  # damaged and foreign files surface as many types
        raise DataError(
            f"{path} is not a vocabulary that can be read without running code ({error}). Where "
            "you trust it, write a text file with one entry a line: open('vocab.txt', 'w').write("
            "'\\n'.join(pickle.load(open('vocab.pkl', 'rb'))['idx2sym']))."
        ) from error
