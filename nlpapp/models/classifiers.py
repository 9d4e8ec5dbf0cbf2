"""Sequence classifiers to train: a new head on pretrained weights, or random weights throughout."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.fast_linear import use_fast_linear
from nlpapp.models.initial_attention import apply_initial_attention
from nlpapp.models.pretrained import load_classifier, load_pretrained, read_config

logger = logging.getLogger(__name__)

MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""What is fetched of a model on the Hub: no pickled weights."""


def local_folder(model: str) -> Path:
    """Return the folder of ``model``, a local folder or a name on the Hugging Face Hub.

    Raises:
        CheckpointError: if it is no folder, and the Hub has no such name or cannot be reached.
    """
    path = Path(model)
    if path.exists() or model.startswith((".", "/", "~")) or model.count("/") > 1:
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=MODEL_FILES))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"'{model}' is neither a folder here nor a model that the Hugging Face Hub gives: "
            f"{reason}. With no network, give the folder of a model."
        ) from error


MULTI_LABEL = "multi_label_classification"


def label_options(label_names: Sequence[str], *, multi_label: bool = False) -> dict[str, Any]:
    """Return the config entries for the classes in order; no names: one score."""
    if not label_names:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
        "problem_type": MULTI_LABEL if multi_label else "single_label_classification",
    }


def is_multi_label(model: PreTrainedModel) -> bool:
    """Return whether a row may have several of the model's classes."""
    return getattr(model.config, "problem_type", None) == MULTI_LABEL


def label_names_of(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the model's class names in order; empty for a model of scores."""
    names: dict[Any, str] = dict(model.config.id2label or {})
    return tuple(names[index] for index in sorted(names)) if len(names) > 1 else ()


def renamed_labels(model: PreTrainedModel, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return ``names`` for the model's classes, in its order; None: its own names.

    Raises:
        ConfigError: if there are not as many names as classes.
    """
    own = label_names_of(model)
    if names is not None and len(names) != len(own):
        raise ConfigError(
            f"label_names has {len(names)} names; the model has {len(own)} classes: "
            f"{', '.join(own) or 'none, it gives a score'}."
        )
    return own if names is None else tuple(names)


def is_unnamed(own: Sequence[str]) -> bool:
    """Say whether a model's classes are called LABEL_0, LABEL_1 and so on, as nobody named them."""
    return bool(own) and list(own) == [f"LABEL_{index}" for index in range(len(own))]


def align_labels(own: Sequence[str], label_names: Sequence[str]) -> list[int]:
    """Return, for each of ``label_names``, the output of the model, whose classes are ``own``.

    Upper and lower case are not told apart where no two classes differ in nothing else. A model
    that calls its classes LABEL_0, LABEL_1 ... is taken to have them in the given order.

    Raises:
        ConfigError: if the model has other classes.
    """
    found = _outputs_by_name(own, label_names)
    if found is not None:
        return found
    if len(own) == len(label_names) and is_unnamed(own):
        logger.warning("the model does not name its classes; taken as %s", ", ".join(label_names))
        return list(range(len(own)))
    raise ConfigError(
        f"the model's classes are {', '.join(own) or 'none (a score)'}; the data's are "
        f"{', '.join(label_names) or 'none (a score)'}. If only the words differ, write the data's "
        "into id2label in the model's config.json; evaluate and predict also take them, in the "
        'order of the model\'s classes, as --label_names \'["0", "1"]\'.'
    )


def _outputs_by_name(own: Sequence[str], label_names: Sequence[str]) -> list[int] | None:
    """Return the output for each name; None unless both sides have the same names."""
    keys: tuple[Callable[[str], str], ...] = (str, str.casefold)
    for key in keys:
        known, wanted = [key(name) for name in own], [key(name) for name in label_names]
        if sorted(known) == sorted(wanted) and len(set(known)) == len(known):
            return [known.index(name) for name in wanted]
    return None


def open_classifier(
    folder: Path | None,
    *,
    label_names: Sequence[str] | None,
    size: BertSizeConfig,
    vocab_size: int,
    pad_token_id: int,
) -> PreTrainedModel:
    """Return the classifier in ``folder``, or without one a random BERT, to try a command out.

    Args:
        folder: a model folder with a classifier.
        label_names: the random model's classes; None: two without names.
        size: of the random BERT.
        vocab_size: entries of the tokenizer.
        pad_token_id: of the tokenizer.

    Raises:
        CheckpointError: if the folder holds no classifier, or a damaged one.
    """
    if folder is not None:
        return load_classifier(folder)
    logger.warning("no model is given: a BERT with random weights answers")
    return build_classifier(
        None,
        label_names=label_names or ("LABEL_0", "LABEL_1"),
        size=size,
        vocab_size=vocab_size,
        pad_token_id=pad_token_id,
    ).eval()


def build_classifier(
    folder: Path | None,
    *,
    label_names: Sequence[str],
    multi_label: bool = False,
    from_scratch: bool = False,
    size: BertSizeConfig,
    vocab_size: int,
    pad_token_id: int,
) -> PreTrainedModel:
    """Return a classifier to train; what is random comes from torch's generator.

    Args:
        folder: pretrained weights, of any architecture transformers knows or ours; a head of
            another size starts anew, one of the same classes gives them in the order of
            ``label_names``. None: a random BERT.
        label_names: the classes in order; none: one score.
        multi_label: a row may have several classes.
        from_scratch: take only the architecture of ``folder``.
        size: of the random BERT, whose embedding has ``vocab_size`` rows.
        vocab_size: entries of the tokenizer.
        pad_token_id: of the tokenizer.

    Raises:
        CheckpointError: if the folder holds no model, or a damaged one.
    """
    options = label_options(label_names, multi_label=multi_label)
    if folder is not None and not from_scratch:
        outputs = _outputs_of_the_head(folder, label_names)
        pretrained = load_pretrained(
            AutoModelForSequenceClassification, folder, ignore_mismatched_sizes=True, **options
        )
        if outputs != sorted(outputs):
            logger.info("%s: its head is put in the order of the data's classes", folder)
            order_outputs(pretrained, outputs)
        return pretrained
    if folder is not None:
        config = read_config(folder)
    else:
        config = bert_config(size, vocab_size=vocab_size, pad_token_id=pad_token_id)
    for name, value in options.items():
        setattr(config, name, value)
    model = AutoModelForSequenceClassification.from_config(config)
    return use_fast_linear(apply_initial_attention(model))


def _outputs_of_the_head(folder: Path, label_names: Sequence[str]) -> list[int]:
    """Return the saved head's output for each of ``label_names``; warn where it is none of them."""
    unchanged = list(range(len(label_names)))
    config = read_config(folder)
    if not any("SequenceClass" in name for name in getattr(config, "architectures", None) or []):
        return unchanged
    own = [name for _, name in sorted(dict(config.id2label).items())]
    listed = f"{', '.join(own)}; the data's are {', '.join(label_names) or 'none (a score)'}"
    found = _outputs_by_name(own, label_names)
    if found is not None:
        return found
    if len(own) != (len(label_names) or 1):
        logger.warning("%s: its classes are %s. A new head starts at random.", folder, listed)
    elif not own[0].startswith("LABEL_"):
        logger.warning("%s: its classes are %s. Its head is kept, in that order.", folder, listed)
    return unchanged


def order_outputs(model: nn.Module, outputs: Sequence[int]) -> None:
    """Let the last linear layer of ``model`` give its ``outputs``, in their order."""
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(parameter[list(outputs)].clone())


def set_dropout(model: nn.Module, probability: float) -> None:
    """Set every dropout of ``model``, of hidden states and attention alike.

    A BERT that was pretrained for a short time without dropout still needs it on a small task.

    Raises:
        ConfigError: ``probability`` is not in [0, 1), or the model has no dropout to set.
    """
    if not 0 <= probability < 1:
        raise ConfigError(f"dropout is {probability}; it is a probability and must be in [0, 1).")
    modules = list(model.modules())
    for module in modules:
        # ModernBERT keeps attention's as a number, and has nothing where a rate was 0.
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = probability  # type: ignore[assignment]
        if isinstance(getattr(module, "out_drop", None), nn.Identity):
            module.out_drop = nn.Dropout(probability)
    found = [module for module in modules if isinstance(module, nn.Dropout)]
    if not found:
        raise ConfigError(f"{type(model).__name__} has no dropout to set; leave the option out.")
    for module in found:
        module.p = probability
