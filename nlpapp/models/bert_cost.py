"""What training a BERT costs, before the first step: floating-point operations and memory.

Both are sums over the architecture (Devlin et al. 2018, arXiv 1810.04805): what a matrix product
multiplies, and what the backward pass needs of the forward pass.

Legend: D hidden size, I width of the feed-forward layers, L layers, S tokens a row, V vocabulary.
"""

from dataclasses import dataclass

from transformers import BertConfig

from nlpapp.errors import ConfigError
from nlpapp.models.vocabulary_loss import ROWS

OPTIMIZER_BYTES = {"adamw": 8, "lamb": 8}
"""Bytes a parameter: the means of gradients and of their squares, float32."""
PRECISION_BYTES = {"float32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a number that a matrix product reads or writes."""
SCORE_BYTES = 9
"""Bytes of a score that attention keeps, before and after dropout: two float32 and a mask."""


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Peak memory of a training step by what holds it, in bytes."""

    weights: int
    """Parameters in float32, and their copies in half precision where the run has it."""
    gradients: int
    """One float32 for each parameter, throughout: as in all micro-batches but a step's first."""
    optimizer: int
    """The optimizer's state."""
    activations: int
    """What the forward pass keeps for the backward pass, and what that holds for a moment."""

    @property
    def total(self) -> int:
        """The sum of all parts, in bytes; libraries and fragmentation come on top."""
        return self.weights + self.gradients + self.optimizer + self.activations


def bert_parameters(config: BertConfig) -> int:
    """Return the number of parameters of a BertForPreTraining, whose two tied ones count once."""
    width, inner, vocabulary = config.hidden_size, config.intermediate_size, config.vocab_size
    norm = 2 * width
    square = width * (width + 1)
    rows = vocabulary + config.max_position_embeddings + config.type_vocab_size
    layer = 4 * square + norm + inner * (width + 1) + width * (inner + 1) + norm
    heads = square + norm + vocabulary + 2 * (width + 1)
    return rows * width + norm + config.num_hidden_layers * layer + square + heads


def bert_training_flops(config: BertConfig, *, sequence_length: float, predictions: float) -> float:
    """Return the FLOPs that the forward and backward pass of pretraining need for one token.

    The last layer is needed at the predictions and the first token only (`models.last_layer`).
    Only matrix products count, a multiplication with its addition as 2, and the backward pass as
    twice the forward pass (Kaplan et al. 2020, arXiv 2001.08361, section 2.1); recomputation and
    padding are no needs. To it add attention's two products over the row, and the heads.

    Args:
        config: of the model.
        sequence_length: mean tokens a row, padding left out.
        predictions: mean masked positions a row; each is projected on the vocabulary.
    """
    width = config.hidden_size
    layer = 4 * width**2 + 2 * width * config.intermediate_size + 2 * sequence_length * width
    for_prediction = width**2 + width * config.vocab_size
    for_row = width**2 + 2 * width
    heads = (predictions * for_prediction + for_row) / sequence_length
    keys_and_values = 2 * width**2
    read = _read_share(sequence_length, predictions)
    last = keys_and_values + read * (layer - keys_and_values)
    return 3 * 2 * ((config.num_hidden_layers - 1) * layer + last + heads)


def _read_share(sequence_length: float, predictions: float) -> float:
    """Return the share of the tokens that the last layer's output is read at."""
    return min(1.0, (predictions + 1) / sequence_length)


def bert_memory(
    config: BertConfig,
    *,
    rows: int,
    sequence_length: float,
    predictions: float,
    optimizer: str,
    precision: str,
    gradient_checkpointing: bool,
    on_cpu: bool = False,
) -> MemoryEstimate:
    """Estimate the peak memory of a pretraining step on one device, which holds the whole model.

    Attention is counted as a kernel that keeps no scores. On a CPU with attention dropout torch has
    none, and each layer keeps the scores before and after dropout.

    Args:
        config: of the model.
        rows: sequences of one micro-batch on this device.
        sequence_length: tokens a row, with padding unless the model leaves it out.
        predictions: masked positions a row.
        optimizer: "adamw" or "lamb".
        precision: "float32", "bf16" or "fp16": of matrix products; weights stay float32.
        gradient_checkpointing: keep the inputs of layers only, and compute the rest twice.
        on_cpu: whether the device is a CPU.

    Raises:
        ConfigError: the optimizer or the precision is not known.
    """
    for key, value, known in (
        ("optimizer", optimizer, OPTIMIZER_BYTES),
        ("precision", precision, PRECISION_BYTES),
    ):
        if value not in known:
            raise ConfigError(f"{key} is '{value}'; expected {', '.join(known)}")
    size = PRECISION_BYTES[precision]
    parameters = bert_parameters(config)
    layer, passing = _layer_bytes(config, size)
    if on_cpu and config.attention_probs_dropout_prob:
        layer += SCORE_BYTES * config.num_attention_heads * sequence_length
    kept_layer = 4 * config.hidden_size if gradient_checkpointing else layer
    again = layer if gradient_checkpointing else 0
    tokens = rows * sequence_length
    # Of the last layer there are the input, keys and values of all tokens, the rest of some.
    read = _read_share(sequence_length, predictions)
    last = min(kept_layer, size * 3 * config.hidden_size + read * kept_layer)
    kept = tokens * (4 * config.hidden_size + (config.num_hidden_layers - 1) * kept_layer + last)
    kept_by_heads, scores = _head_bytes(config, rows * predictions, size)
    # The scores are gone when the backward pass enters the last layer.
    passing_at_once = max(scores, tokens * (passing + again))
    return MemoryEstimate(
        weights=(4 if size == 4 else 4 + size) * parameters,
        gradients=4 * parameters,
        optimizer=OPTIMIZER_BYTES[optimizer] * parameters,
        activations=round(kept + kept_by_heads + passing_at_once),
    )


def _layer_bytes(config: BertConfig, size: int) -> tuple[float, float]:
    """Return the bytes a token that a layer keeps, and those of its gradients on their way."""
    width, inner = config.hidden_size, config.intermediate_size
    # Kept are its input, queries, keys, values, the attended, the input of the feed-forward layer,
    # and that layer's inner values before and after the activation; the inputs of its two norms in
    # float32, and a byte for each number that dropout may drop.
    masks = 2 * width if config.hidden_dropout_prob else 0
    return size * (6 * width + 2 * inner) + 4 * 2 * width + masks, size * 2 * inner


def _head_bytes(config: BertConfig, predictions: float, size: int) -> tuple[float, float]:
    """Return the bytes that the heads keep for the backward pass, and those of the scores."""
    width, vocabulary = config.hidden_size, config.vocab_size
    # The gradient of the vocabulary's weights is there from the forward pass on.
    kept = 4 * vocabulary * width + predictions * 4 * width * 4
    scores = min(ROWS, predictions) * vocabulary * (4 if size == 4 else 4 + 2 * size)
    # Beside the scores there is what a block adds to that gradient.
    return kept, scores + size * vocabulary * width
