"""Hidden states of an encoder as features: which layers, and how a text becomes one vector.

Layers are counted as extract_features.py of google-research/bert counts them: 0 is the output of
the first layer, -1 that of the last. One before the first, -(layers + 1), are the embeddings.

Legend: B = rows, S = positions, L = chosen layers, H = hidden width.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.pretrained import load_pretrained, read_config

Pooling = Literal["mean", "cls", "max", "none"]


def load_encoder(folder: str | Path) -> PreTrainedModel:
    """Load the encoder in ``folder``, without whatever head it was trained with.

    Raises:
        CheckpointError: there is no model, it is damaged or lacks weights, or it is no transformer
            encoder.
    """
    config = read_config(folder)
    kind = getattr(config, "model_type", "?")
    way = (
        "expected a transformer encoder such as BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT, "
        "DeBERTa or MPNet."
    )
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(f"{folder} holds an encoder-decoder ('{kind}'); {way}")
    if type(config) not in AutoModel._model_mapping:
        raise CheckpointError(f"{folder} holds a '{kind}', which has no layers to read; {way}")
    loader = _Loader()
    model = load_pretrained(loader, folder).eval()
    # A pooler, which many encoders were saved without, stands behind the last layer: it is not
    # read here. Anything else at random would make the features random, without a word.
    missing = sorted(name for name in loader.missing if "pooler" not in name)
    if missing:
        raise CheckpointError(
            f"{folder} has no weights for {len(missing)} parameters of its encoder, among them "
            f"{missing[0]}: the features would be random. Save the model again, whole."
        )
    if "attention_mask" not in inspect.signature(model.forward).parameters:
        raise CheckpointError(
            f"{folder} holds a '{kind}', which reads a text without a mask for padding; {way}"
        )
    return cast(PreTrainedModel, model)


class _Loader:
    """AutoModel, remembering which weights a folder does not have."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def from_pretrained(self, folder: str | Path, **options: Any) -> tuple[Any, dict[str, Any]]:
        model, loading = AutoModel.from_pretrained(folder, **options)
        self.missing = list(loading["missing_keys"])
        return model, loading


def random_encoder(config: PretrainedConfig) -> PreTrainedModel:
    """Return an encoder of ``config`` with random weights, to try things out."""
    return cast(PreTrainedModel, AutoModel.from_config(config).eval())


def weights_sha256(folder: str | Path) -> str:
    """Return one sha256 (hex) over the configuration and the weight files in ``folder``."""
    digest = hashlib.sha256()
    for path in sorted([*Path(folder).glob("config.json"), *Path(folder).glob("*.safetensors")]):
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def state_indices(layers: Sequence[int], num_layers: int) -> list[int]:
    """Return for each layer its place among the hidden states, of which 0 are the embeddings.

    Raises:
        ConfigError: no layer is given, one twice, or one that the model does not have.
    """
    if not layers:
        raise ConfigError("layers is empty; give at least one, such as [-1] for the last layer.")
    places = []
    for layer in layers:
        place = layer + 1 if layer >= 0 else num_layers + 1 + layer
        if not 0 <= place <= num_layers:
            raise ConfigError(
                f"layer {layer} is not there: the model has {num_layers} layers, 0 to "
                f"{num_layers - 1} from the first or -1 to {-num_layers} from the last; "
                f"{-num_layers - 1} are the embeddings."
            )
        places.append(place)
    if len(set(places)) < len(places):
        raise ConfigError(f"layers {list(layers)} name one layer twice; give each once.")
    return places


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector for each row; special tokens count, padding does not.

    Args:
        hidden: (B, S, H) hidden states.
        mask: (B, S), 1 at tokens and 0 at padding; the first position is a token.
        pooling: the mean or the largest value over tokens, or the first token (cls).

    Returns:
        (B, H)
    """
    if pooling == "cls":
        return hidden[:, 0]
    weights = mask.unsqueeze(-1).to(hidden.dtype)  # (B, S, 1)
    if pooling == "mean":
        return (hidden * weights).sum(1) / weights.sum(1)
    return hidden.masked_fill(weights == 0, -torch.inf).amax(1)


class FeatureExtractor:
    """An encoder that gives the features of a batch."""

    def __init__(
        self, model: PreTrainedModel, *, layers: Sequence[int], pooling: Pooling = "mean"
    ) -> None:
        """Read ``layers`` of ``model``; pooling "none" gives a vector for each token.

        Raises:
            ConfigError: as `state_indices`.
        """
        config: Any = model.config
        self.num_layers = int(config.num_hidden_layers)
        self.hidden_size = int(config.hidden_size)
        self._states = state_indices(layers, self.num_layers)
        self._model = model
        self._pooling = pooling
        accepted = set(inspect.signature(model.forward).parameters)
        if getattr(config, "type_vocab_size", 0) < 2:
            accepted.discard("token_type_ids")  # a RoBERTa has one type, a DistilBERT none
        self._accepted = accepted

    @torch.inference_mode()
    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the features of a padded batch, in float32 on the CPU.

        Args:
            batch: input_ids, attention_mask and token_type_ids, each (B, S).

        Returns:
            (B, L, H); without pooling (B, S, L, H), in which padding has no meaning.
        """
        device = self._model.device
        inputs = {k: v.to(device) for k, v in batch.items() if k in self._accepted}
        # Keeping all states costs memory, which the last layer alone can do without.
        all_states = self._states != [self.num_layers]
        output = self._model(**inputs, output_hidden_states=all_states)
        states = output.hidden_states if all_states else None
        chosen = [states[i] for i in self._states] if states else [output.last_hidden_state]
        if self._pooling == "none":
            return torch.stack(chosen, dim=2).float().cpu()
        mask = batch["attention_mask"].to(device)
        return torch.stack([pool(state, mask, self._pooling) for state in chosen], 1).float().cpu()

    def rows(
        self,
        batches: Iterable[tuple[np.ndarray, Mapping[str, Tensor]]],
        lengths: np.ndarray,
        *,
        progress: Callable[[int], Any] | None = None,
    ) -> np.ndarray:
        """Return the features of rows that come in batches of any order, in their own order.

        Args:
            batches: (indices of the rows, their padded batch); each row once.
            lengths: (N,) tokens of each row.
            progress: is told the rows of each batch when it is done.

        Returns:
            (N, L, H) float32; without pooling (tokens, L, H), one row behind the other.
        """
        per_token = self._pooling == "none"
        starts = np.cumsum([0, *lengths])
        length = int(starts[-1]) if per_token else len(lengths)
        shape = (length, len(self._states), self.hidden_size)
        values: np.ndarray = np.empty(shape, dtype=np.float32)
        for indices, batch in batches:
            found = self(batch).numpy()
            if per_token:
                for row, index in zip(found, indices, strict=True):
                    values[starts[index] : starts[index + 1]] = row[: lengths[index]]
            else:
                values[indices] = found
            if progress is not None:
                progress(len(indices))
        return values
