"""Model folders: ordinary Hugging Face folders that also remember their tokenizer."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.fast_linear import use_fast_linear

FINGERPRINT = "tokenizer_fingerprint"
"""The key of config.json that holds the fingerprint of the tokenizer the model was trained with."""

logger = logging.getLogger("nlpapp")

# Loading says what it does in our own words; transformers' bars for each file only hide them.
transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()


def save_model_folder(
    model: PreTrainedModel, folder: Path, *, tokenizer: Any = None, fingerprint: str | None = None
) -> None:
    """Write config.json, model.safetensors and the tokenizer to ``folder``, whole or not at all.

    Args:
        model: a transformers model, or one of ours.
        folder: is replaced if it exists.
        tokenizer: a transformers tokenizer, saved beside the model.
        fingerprint: of that tokenizer; kept in config.json, so that a mismatch can be refused
        later.

    Raises:
        CheckpointError: it cannot be written, as on a full disk; what was there stays.
    """
    if fingerprint is not None:
        setattr(model.config, FINGERPRINT, fingerprint)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model.save_pretrained(partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"cannot write the model to {folder}: {error}. Checkpoints and what was there stay; "
            "make room, or put it right, and run the same command again."
        ) from error
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)


def model_fingerprint(model: PreTrainedModel) -> str | None:
    """Return the tokenizer fingerprint that ``model`` was saved with, if any."""
    return getattr(model.config, FINGERPRINT, None)


def read_config(folder: str | Path) -> Any:
    """Return the transformers configuration in ``folder`` (or of a Hub name).

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    path = Path(folder)
    looks_local = path.exists() or str(folder).startswith((".", "/")) or str(folder).count("/") > 1
    if looks_local and not (path / "config.json").is_file():
        raise CheckpointError(
            f"{folder} is not a model folder: it has no config.json. "
            "Give the model/ folder of a run, or a Hugging Face model folder."
        )
    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"cannot read the model configuration of {folder}: {error}"
        ) from error


def load_pretrained(
    auto_class: Any,
    folder: str | Path,
    *,
    complete: bool = False,
    no_new: str | None = None,
    **options: Any,
) -> Any:
    """Load ``folder`` with a transformers (Auto) class, in float32.

    Args:
        auto_class: the class.
        folder: a model folder.
        complete: the weights must be those of the model, no more and no less; else what is missing
            starts at random, as the new head of an encoder does.
        no_new: what the folder must hold all weights of, and what to do otherwise, for the error.
        options: of ``from_pretrained``.

    Raises:
        CheckpointError: the folder is no model, is damaged, has another shape than its config, or
            the weights of another model.
    """
    read_config(folder)
    try:
        model, loading = auto_class.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, **options
        )
    except Exception as error:  # damaged weights surface as many types, from several libraries
        raise CheckpointError(
            f"cannot load the model in {folder}: {error}. "
            "The file may be truncated: copy it again, or use an earlier checkpoint."
        ) from error
    if complete and (loading["missing_keys"] or loading["unexpected_keys"]):
        faults = [f"{name} is missing" for name in sorted(loading["missing_keys"])]
        faults += [f"{name} is unknown" for name in sorted(loading["unexpected_keys"])]
        raise CheckpointError(
            f"the weights in {folder} are not those of the model that its config.json describes: "
            f"{'; '.join(faults[:3])} ({len(faults)} in all). Copy the folder again as a whole."
        )
    if loading["missing_keys"]:
        new = ", ".join(sorted(loading["missing_keys"]))
        if "word_embeddings" in new:
            raise CheckpointError(
                f"the weights in {folder} are not those of the {model.config.model_type} that its "
                "config.json describes: there are no word embeddings. Copy the folder again, or "
                "give the config.json that belongs to them."
            )
        if no_new is not None:
            raise CheckpointError(f"{folder} holds no {no_new} It has no weights for {new}.")
        logger.info("weights that %s does not have start at random: %s", folder, new)
    return use_fast_linear(model)


def load_classifier(folder: str | Path) -> PreTrainedModel:
    """Load a sequence classifier, ours or any of transformers', ready to predict.

    Raises:
        CheckpointError: the folder is damaged, or its model is not a classifier, or only by name.
    """
    architectures = getattr(read_config(folder), "architectures", None) or []
    if architectures and not any("SequenceClassification" in name for name in architectures):
        raise CheckpointError(
            f"{folder} holds {', '.join(architectures)}, which is not a sequence classifier; "
            "fine-tune it first (nlpapp finetune)."
        )
    wanted = "trained sequence classifier; fine-tune it first (nlpapp finetune)."
    return load_pretrained(AutoModelForSequenceClassification, folder, no_new=wanted).eval()


def check_tokenizer_fits(
    model: PreTrainedModel, *, vocab_size: int, fingerprint: str | None = None
) -> None:
    """Refuse a tokenizer that ``model`` cannot have been trained with.

    Raises:
        ConfigError: the vocabulary is larger than the embedding, or the fingerprints differ.
    """
    rows = int(model.config.vocab_size)
    if vocab_size > rows:
        raise ConfigError(
            f"the tokenizer has {vocab_size} entries but the model's embedding has {rows} rows; "
            "use the tokenizer that the model was trained with."
        )
    expected = model_fingerprint(model)
    if expected is not None and fingerprint is not None and expected != fingerprint:
        raise ConfigError(
            f"the model was trained with another tokenizer (fingerprint {expected[:12]}) than the "
            f"one given ({fingerprint[:12]}); use the tokenizer files in the model's own folder."
        )


def check_sequence_length(model: PreTrainedModel, max_seq_length: int) -> None:
    """Refuse sequences that are longer than the model has positions for.

    RoBERTa and its kin count positions from the padding index on, so that a few are never used.

    Raises:
        ConfigError: ``max_seq_length`` (tokens) is over the model's limit.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            limit -= 0 if module.padding_idx is None else module.padding_idx + 1
    if max_seq_length > limit:
        raise ConfigError(
            f"max_seq_length {max_seq_length} is over the model's {limit} positions; "
            f"set max_seq_length to {limit} or less."
        )
