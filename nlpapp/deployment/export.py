"""Trained models to bundles: folders that answer without PyTorch or transformers.

    export_classifier       any `SUPPORTED` sequence classifier, regressions and BiLSTMs included
    export_encoder          hidden states of chosen layers of a `SUPPORTED` encoder
    export_language_model   a Transformer-XL: next-token log-probabilities, memory in and out

What lies in a bundle is listed in `deployment.bundle`. It gets its name only after each of its
models was compared with PyTorch, on random batches of many shapes and on a data set if given.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from torch import nn

from nlpapp.deployment.bilstm_graph import build_bilstm_graph
from nlpapp.deployment.bundle import (
    new_bundle,
    write_json,
    write_labels,
    write_manifest,
    write_program_file,
    write_tokenizer,
)
from nlpapp.deployment.bundle_card import Card, write_card
from nlpapp.deployment.export_check import DevSet, check_dev_set
from nlpapp.deployment.export_formats import (
    FORMATS,
    Job,
    check_formats,
    text_feeds,
    write_formats,
)
from nlpapp.deployment.parity import NUM_BATCHES, random_feeds, random_memory_feeds
from nlpapp.deployment.tracing import (
    LayersModule,
    LogitsModule,
    Traceable,
    input_names,
    text_axes,
)
from nlpapp.deployment.transformer_xl_graph import (
    TransformerXLStep,
    memory_names,
    model_compute,
    step_axes,
)
from nlpapp.errors import ConfigError

__all__ = [
    "FORMATS",
    "SUPPORTED",
    "SUPPORTED_ENCODERS",
    "DevSet",
    "export_classifier",
    "export_encoder",
    "export_language_model",
    "input_names",
    "random_feeds",
]

logger = logging.getLogger("nlpapp")

SUPPORTED_ENCODERS = (
    *("albert", "bert", "camembert", "deberta", "deberta-v2", "distilbert", "electra"),
    *("modernbert", "mpnet", "roberta", "xlm-roberta"),
)
"""Model types (config.json) of encoders whose export is tested."""
SUPPORTED = tuple(sorted((*SUPPORTED_ENCODERS, "bilstm", "text_cnn")))
"""Model types of classifiers whose export is tested."""
NO_PROGRAM = "it would fix the length of the texts, because PyTorch unrolls their loop"


def export_classifier(
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    *,
    max_seq_length: int,
    int8: bool = True,
    formats: Sequence[str] = (),
    seed: int = 42,
    batches: int = NUM_BATCHES,
    calibration: Sequence[str] | Sequence[tuple[str, str]] = (),
    dev: DevSet | None = None,
    facts: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Write a bundle to ``folder``, replacing a bundle that is there.

    Args:
        model: a sequence classifier (or regression) of a `SUPPORTED` type.
        tokenizer: its fast transformers tokenizer.
        folder: where the bundle goes; it appears when everything is written and checked.
        max_seq_length: tokens that the bundle reads of a text; longer texts are cut.
        int8: also write the model with 8-bit weights.
        formats: more of `FORMATS`: fp16, int8-static, torch-export, safetensors.
        seed: of the batches for the comparison.
        batches: how many of them.
        calibration: texts (or pairs) that show the ranges of activations; for int8-static.
        dev: a data set on which the metric must hold.
        facts: more rows of the model card, name -> text.

    Returns:
        Sizes, latencies and differences, as in metrics.json.

    Raises:
        ConfigError: an unsupported model, too long a sequence, a tokenizer that does not fit, a
            folder of something else, or one that cannot be written.
        CheckpointError: an exported model does not compute what the PyTorch model does.
    """
    _check_text_model(model, tokenizer, max_seq_length, SUPPORTED)
    if getattr(model.config, "problem_type", None) == "multi_label_classification":
        raise ConfigError(
            "a model with several labels a text cannot be exported; it takes one each."
        )
    chosen = check_formats(formats, int8=int8, calibration=calibration)
    is_bilstm = model.config.model_type == "bilstm"
    if is_bilstm and "torch-export" in chosen:
        raise ConfigError(f"torch-export is not possible for a BiLSTM: {NO_PROGRAM}. Use ONNX.")
    model = model.cpu().float().eval()
    names = input_names(model, tokenizer)
    (example,) = random_feeds(model, names, max_seq_length=8, seed=0, shapes=[(2, 8)])
    source = Traceable(
        module=LogitsModule(model, names),
        inputs=names,
        outputs=["logits"],
        axes=text_axes(names, ["logits"]),
        example=example,
        proto=(lambda: build_bilstm_graph(model)) if is_bilstm else None,
    )
    labels = _labels(model.config)
    job = Job(
        kind="classifier" if labels else "regression",
        model=model,
        source=source,
        reference=source.compute,
        rebuild=lambda other: LogitsModule(other, names),
        feeds=lambda: random_feeds(
            model, names, max_seq_length=max_seq_length, seed=seed, batches=batches
        ),
        calibration=text_feeds(tokenizer, names, calibration, max_seq_length),
        save_beside=tokenizer.save_pretrained,
    )
    manifest = _facts(job, max_seq_length) | {
        "siamese": "input_ids_b" in names,
        "pairs": "input_ids_b" in names or (dev is not None and dev.pairs is not None),
    }
    with new_bundle(Path(folder)) as partial:
        write_tokenizer(tokenizer, partial, max_seq_length=max_seq_length)
        write_labels(partial, labels)
        metrics = write_formats(job, partial, chosen)
        if dev is not None:
            write_manifest(partial, manifest)  # the predictor asks for it
            rows = dev.texts if dev.pairs is None else list(zip(dev.texts, dev.pairs, strict=True))
            batches_of_rows = text_feeds(tokenizer, names, rows, max_seq_length)
            expected = np.concatenate([source.compute(feed)[0] for feed in batches_of_rows])
            metrics |= check_dev_set(partial, dev, chosen, expected_logits=expected)
        card = Card(
            kind=job.kind,
            model_type=model.config.model_type,
            metrics=metrics,
            labels=labels,
            max_seq_length=max_seq_length,
            facts=facts or {},
            pairs=bool(manifest["pairs"]),
        )
        _finish(partial, manifest, card)
    return metrics


def export_encoder(
    model: Any,
    tokenizer: Any,
    folder: str | Path,
    *,
    max_seq_length: int,
    layers: Sequence[int] = (-1,),
    int8: bool = True,
    formats: Sequence[str] = (),
    seed: int = 42,
    batches: int = NUM_BATCHES,
    calibration: Sequence[str] | Sequence[tuple[str, str]] = (),
    facts: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Write a bundle of an encoder, whose outputs are the hidden states of ``layers``.

    Args:
        model: the bare encoder (AutoModel) of a `SUPPORTED_ENCODERS` type.
        tokenizer: as for `export_classifier`, as all arguments that are not here.
        folder: where the bundle goes.
        max_seq_length: tokens that the bundle reads of a text.
        layers: 0 is the embeddings, -1 the last layer.
        int8: also write the model with 8-bit weights.
        formats: more of `FORMATS`.
        seed: of the batches for the comparison.
        batches: how many of them.
        calibration: for int8-static.
        facts: more rows of the model card.

    Raises:
        ConfigError: as `export_classifier`, or a layer that the model does not have.
        CheckpointError: as `export_classifier`.
    """
    _check_text_model(model, tokenizer, max_seq_length, SUPPORTED_ENCODERS)
    chosen = check_formats(formats, int8=int8, calibration=calibration)
    kept = _resolve_layers(layers, int(model.config.num_hidden_layers))
    model = model.cpu().float().eval()
    names = input_names(model, tokenizer)
    outputs = [f"layer_{layer}" for layer in kept]
    (example,) = random_feeds(model, names, max_seq_length=8, seed=0, shapes=[(2, 8)])
    source = Traceable(
        module=LayersModule(model, names, kept),
        inputs=names,
        outputs=outputs,
        axes=text_axes(names, outputs),
        example=example,
    )
    job = Job(
        kind="encoder",
        model=model,
        source=source,
        reference=source.compute,
        rebuild=lambda other: LayersModule(other, names, kept),
        feeds=lambda: random_feeds(
            model, names, max_seq_length=max_seq_length, seed=seed, batches=batches
        ),
        calibration=text_feeds(tokenizer, names, calibration, max_seq_length),
        save_beside=tokenizer.save_pretrained,
    )
    manifest = _facts(job, max_seq_length) | {
        "layers": kept,
        "num_layers": int(model.config.num_hidden_layers),
        "hidden_size": int(model.config.hidden_size),
    }
    with new_bundle(Path(folder)) as partial:
        write_tokenizer(tokenizer, partial, max_seq_length=max_seq_length)
        write_labels(partial, [])
        metrics = write_formats(job, partial, chosen)
        card = Card(
            kind="encoder",
            model_type=model.config.model_type,
            metrics=metrics,
            max_seq_length=max_seq_length,
            facts=facts or {},
            layers=kept,
        )
        _finish(partial, manifest, card)
    return metrics


def export_language_model(
    model: Any,
    vocabulary: Any,
    folder: str | Path,
    *,
    mem_len: int | None = None,
    int8: bool = True,
    formats: Sequence[str] = (),
    max_seq_length: int = 64,
    seed: int = 42,
    batches: int = NUM_BATCHES,
    facts: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Write a bundle of a Transformer-XL that generates text without PyTorch.

    Args:
        model: a `models.transformer_xl.TransformerXLLMHeadModel`.
        vocabulary: its `text.vocabulary.Vocabulary`.
        folder: where the bundle goes.
        mem_len: positions that each layer remembers; None: the model's own.
        int8: also write the model with 8-bit weights.
        formats: more of `FORMATS`; int8-static and torch-export are not among them here.
        max_seq_length: tokens of the longest segment of the comparison; the graph has no limit.
        seed: of the batches for the comparison.
        batches: how many of them.
        facts: more rows of the model card.

    Raises:
        ConfigError: another kind of model, or a format that it cannot have.
        CheckpointError: an exported model does not compute what the PyTorch model does.
    """
    if model.config.model_type != "transformer_xl":
        raise ConfigError(
            f"a language model of type '{model.config.model_type}' cannot be exported; "
            "supported is transformer_xl."
        )
    if model.config.position_embedding_type != "relative":
        raise ConfigError(
            "a Transformer-XL with absolute positions, the paper's baseline, cannot be exported; "
            "train one with relative positions (size.absolute_positions false)."
        )
    for name, reason in (
        ("int8-static", "the ranges of its memory are not known beforehand"),
        ("torch-export", "it would fix how much memory there is"),
    ):
        if name in formats:
            raise ConfigError(f"{name} is not possible for a Transformer-XL: {reason}.")
    chosen = check_formats(formats, int8=int8, calibration=())
    model = model.cpu().float().eval()
    kept = int(model.config.mem_len if mem_len is None else mem_len)
    layers = int(model.config.num_hidden_layers)
    before, after = memory_names(layers)

    def feeds(number: int, start: int, longest: int) -> Any:
        return random_memory_feeds(
            model.config, mem_len=kept, max_seq_length=longest, seed=start, batches=number
        )

    source = Traceable(
        module=TransformerXLStep(model, kept),
        inputs=["input_ids", *before],
        outputs=["logits", *after],
        axes=step_axes(layers),
        # The fourth batch has many rows and positions, and a memory of any length.
        example=list(feeds(4, 0, 5))[-1],
    )
    job = Job(
        kind="language-model",
        model=model,
        source=source,
        reference=model_compute(model, kept),
        rebuild=lambda other: TransformerXLStep(other, kept),
        feeds=lambda: feeds(batches, seed, max_seq_length),
        save_beside=vocabulary.save_pretrained,
    )
    manifest = _facts(job, None) | {
        "num_layers": layers,
        "hidden_size": int(model.config.hidden_size),
        "mem_len": kept,
        "end_id": vocabulary.end_id,
        "unknown_id": vocabulary.unknown_id,
    }
    with new_bundle(Path(folder)) as partial:
        _write_vocabulary(vocabulary, partial)
        metrics = write_formats(job, partial, chosen)
        described = {"memory": f"{kept} positions of each layer"} | dict(facts or {})
        card = Card(
            kind="language-model", model_type="transformer_xl", metrics=metrics, facts=described
        )
        _finish(partial, manifest, card)
    return metrics


def _finish(partial: Path, manifest: Mapping[str, Any], card: Card) -> None:
    write_json(partial / "metrics.json", dict(card.metrics))
    write_program_file(partial, card.kind)
    write_card(partial, card)
    (partial / "manifest.json").unlink(missing_ok=True)  # it is not to hold a sum of itself
    write_manifest(partial, manifest)


def _facts(job: Job, max_seq_length: int | None) -> dict[str, Any]:
    return {
        "kind": job.kind,
        "model_type": job.model.config.model_type,
        "tokenizer_fingerprint": getattr(job.model.config, "tokenizer_fingerprint", None),
        "max_seq_length": max_seq_length,
    }


def _write_vocabulary(vocabulary: Any, partial: Path) -> None:
    """Write the one file of a vocabulary that a reader needs."""
    folder = partial / "vocabulary"
    folder.mkdir()
    vocabulary.save_pretrained(folder)
    for name in ("vocabulary.json", "tokenizer.json"):
        if (folder / name).is_file():
            (folder / name).replace(partial / name)
            break
    else:
        raise ConfigError("the vocabulary is neither a list of symbols nor a fast tokenizer.")
    shutil.rmtree(folder)


def _check_text_model(
    model: Any, tokenizer: Any, max_seq_length: int, supported: Sequence[str]
) -> None:
    kind = model.config.model_type
    if kind not in supported:
        raise ConfigError(
            f"models of type '{kind}' cannot be exported; supported are {', '.join(supported)}."
        )
    if not isinstance(getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        raise ConfigError("the tokenizer has no tokenizer.json; save it as a fast tokenizer first.")
    rows = len(model.get_input_embeddings().weight)
    if len(tokenizer) > rows:
        raise ConfigError(
            f"the tokenizer has {len(tokenizer)} entries but the model's embedding has {rows} "
            "rows; use the tokenizer that the model was trained with."
        )
    limit = _positions(model)
    if limit is not None and max_seq_length > limit:
        raise ConfigError(
            f"max_seq_length {max_seq_length} is over the model's {limit} positions; "
            f"set max_seq_length to {limit} or less."
        )
    least = tokenizer.num_special_tokens_to_add(pair=True) + 2
    if max_seq_length < least:
        raise ConfigError(f"max_seq_length is {max_seq_length}; two texts need at least {least}.")


def _positions(model: Any) -> int | None:
    """Return the longest sequence of the model; RoBERTa and its kin start behind the padding."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            limit -= 0 if module.padding_idx is None else module.padding_idx + 1
    return limit


def _resolve_layers(layers: Sequence[int], last: int) -> list[int]:
    """Return the layers counted from the embeddings (0), in order, each once."""
    for layer in layers:
        if not -last - 1 <= layer <= last:
            raise ConfigError(
                f"layers: the model has no layer {layer}; it has 0 (the embeddings) to {last}, or "
                f"-1 (the last) to {-last - 1}."
            )
    if not layers:
        raise ConfigError("layers is empty; give -1 for the last layer.")
    return sorted({layer + last + 1 if layer < 0 else layer for layer in layers})


def _labels(config: Any) -> list[str]:
    """Return the label names by class index; none for a regression."""
    if config.num_labels == 1:
        return []
    return [str(config.id2label[index]) for index in range(config.num_labels)]
