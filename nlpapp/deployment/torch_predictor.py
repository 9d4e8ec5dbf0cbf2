"""PyTorch models behind the interface of the runtime, to be timed beside it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlpapp.errors import CheckpointError

Predict = Callable[[Sequence[str], Sequence[str] | None], list[dict[str, Any]]]
"""(texts, second texts or None) -> predictions, as `runtime.Predictor.predict` gives."""
Encode = Callable[[Sequence[str], Sequence[str] | None], Any]
"""(texts, second texts or None) -> (texts, hidden width) float32, as `runtime.Encoder.encode`."""


def load_encoder(folder: str | Path) -> Any:
    """Load an encoder of transformers in float32.

    Raises:
        CheckpointError: the folder is damaged, or its model is no encoder.
    """
    from transformers import AutoModel

    return _load(AutoModel, folder)


def load_language_model(folder: str | Path) -> Any:
    """Load a language model in float32, of a kind that is registered with transformers.

    Raises:
        CheckpointError: the folder is damaged, or its model is no language model.
    """
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, folder)


def _load(auto_class: Any, folder: str | Path) -> Any:
    try:
        return auto_class.from_pretrained(folder, dtype=torch.float32)
    except Exception as error:  # damaged weights surface as many types, from several libraries
        raise CheckpointError(f"cannot load the model in {folder}: {error}.") from error


def torch_predictor(model: Any, tokenizer: Any, *, max_seq_length: int) -> Predict:
    """Return a function that predicts with a PyTorch classifier, as `runtime.Predictor` does."""
    model.eval()
    labels = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
    siamese = getattr(model.config, "siamese", False)
    options: dict[str, Any] = {"truncation": True, "max_length": max_seq_length}
    options |= {"padding": True, "return_tensors": "pt"}

    @torch.inference_mode()
    def predict(texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        joined = list(pairs) if pairs is not None and not siamese else None
        batch = dict(tokenizer(list(texts), joined, **options))
        if pairs is not None and siamese:
            other = tokenizer(list(pairs), **options)
            batch |= {f"{name}_b": other[name] for name in ("input_ids", "attention_mask")}
        logits = model(**batch).logits  # (texts, labels)
        if len(labels) == 1:
            return [{"score": value} for value in logits[:, 0].tolist()]
        return [
            {"label": labels[best], "probabilities": dict(zip(labels, row, strict=True))}
            for best, row in zip(logits.argmax(1).tolist(), logits.softmax(1).tolist(), strict=True)
        ]

    return predict


def torch_encoder(model: Any, tokenizer: Any, *, max_seq_length: int) -> Encode:
    """Return a function that gives mean vectors of the last layer, as `runtime.Encoder` does."""
    model.eval()
    options: dict[str, Any] = {"truncation": True, "max_length": max_seq_length}
    options |= {"padding": True, "return_tensors": "pt"}

    @torch.inference_mode()
    def encode(texts: Sequence[str], pairs: Sequence[str] | None = None) -> Any:
        batch = tokenizer(list(texts), None if pairs is None else list(pairs), **options)
        states = model(**batch).last_hidden_state  # (B, S, H)
        inside = batch["attention_mask"][:, :, None].to(states.dtype)  # (B, S, 1)
        return ((states * inside).sum(1) / inside.sum(1)).numpy()

    return encode


def torch_generator(
    model: Any, vocabulary: Any, *, generate: Callable[..., Any], new_tokens: int
) -> Predict:
    """Return a function that continues texts as `language_runtime.LanguageModel.generate` does.

    Args:
        model: a language model.
        vocabulary: its `text.vocabulary.Vocabulary`.
        generate: as `models.generation.generate_ids`.
        new_tokens: tokens to write after each text, always the likeliest one, never <unk>.
    """
    model.eval()
    unknown = [] if vocabulary.unknown_id is None else [vocabulary.unknown_id]
    options: dict[str, Any] = {"max_new_tokens": new_tokens, "temperature": 0, "forbidden": unknown}

    def continued(texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[dict[str, Any]]:
        found = []
        for text in texts:
            ids = vocabulary.encode(" ".join(text.split()))
            rng = np.random.default_rng(0)  # asked for, though nothing is drawn
            new = generate(model, [vocabulary.end_id, *ids], rng=rng, **options)
            found.append({"text": vocabulary.decode([*ids, *new])})
        return found

    return continued
