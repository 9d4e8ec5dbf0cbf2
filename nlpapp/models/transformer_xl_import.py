"""Weights of the authors' Transformer-XL, and of transformers' until version 4, as ours.

Both have the same tensors: transformers puts "transformer." before those of the body, and may have
u and v in each layer. Their names, and where each goes here:

    word_emb.emb_layers.i.weight            embedding.clusters.i.weight       div_val 1: all in 0
    word_emb.emb_projs.i                    embedding.clusters.i.projection   "
    r_w_bias, r_r_bias (N, H)               content_bias (u), position_bias (v)
    layers.i.dec_attn.qkv_net.weight        attention.query, attention.key_value
    layers.i.dec_attn.{r,o}_net.weight      attention.position, attention.output
    layers.i.dec_attn.layer_norm            attention_norm
    layers.i.pos_ff.CoreNet.{0,3}           feed_forward_in, feed_forward_out
    layers.i.pos_ff.layer_norm              feed_forward_norm
    crit.out_layers.i.weight                the embedding's, or output_tables.clusters.i.weight
    crit.out_layers.i.bias                  softmax.bias                      all in one
    crit.out_projs.i                        the embedding's, or softmax.projections.i
    crit.cluster_weight, crit.cluster_bias  softmax.tail_weight, softmax.tail_bias

`pos_emb.inv_freq` is a constant. Sources: kimiyoung/transformer-xl, and transformers 4.33.
"""

from collections.abc import Mapping
from itertools import accumulate, count, takewhile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.transformer_xl import TransformerXLConfig, TransformerXLLMHeadModel

Weights = Mapping[str, Tensor]

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""What a folder of transformers may hold, the safer one first."""
LAYER_NAMES = {
    "dec_attn.o_net.weight": "attention.output.weight",
    "dec_attn.r_net.weight": "attention.position.weight",
    "dec_attn.q_net.weight": "attention.query.weight",
    "dec_attn.kv_net.weight": "attention.key_value.weight",
    "dec_attn.layer_norm.weight": "attention_norm.weight",
    "dec_attn.layer_norm.bias": "attention_norm.bias",
    "pos_ff.CoreNet.0.weight": "feed_forward_in.weight",
    "pos_ff.CoreNet.0.bias": "feed_forward_in.bias",
    "pos_ff.CoreNet.3.weight": "feed_forward_out.weight",
    "pos_ff.CoreNet.3.bias": "feed_forward_out.bias",
    "pos_ff.layer_norm.weight": "feed_forward_norm.weight",
    "pos_ff.layer_norm.bias": "feed_forward_norm.bias",
}


def find_weights(folder: Path) -> Path:
    """Return the file of ``folder`` that holds its weights; CheckpointError if there is none."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder} holds no weights: expected {' or '.join(WEIGHT_FILES)}.")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in ``path`` by name.

    Raises:
        CheckpointError: there is no such file, or it is damaged, or holds more than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files surface as many types, from several libraries
        if "Weights only load failed" not in str(error):
            raise CheckpointError(f"cannot read the weights in {path}: {error}") from error
        raise CheckpointError(
            f"{path} is a pickle of more than tensors, such as the whole model that the original "
            "code saves; reading it would run the code in it. Where you trust it, with that code "
            "at hand: torch.save(torch.load('model.pt', weights_only=False).state_dict(), "
            "'state.pt')."
        ) from error
    if not isinstance(weights, dict) or not all(
        isinstance(tensor, torch.Tensor) for tensor in weights.values()
    ):
        raise CheckpointError(f"{path} holds no state dict: expected tensors by name.")
    return weights


def import_transformer_xl(
    weights: Weights,
    *,
    mem_len: int,
    clamp_len: int | None = None,
    same_length: bool = False,
    pre_norm: bool = False,
    cutoffs: list[int] | None = None,
    num_heads: int | None = None,
    dropout: float = 0.1,
    attention_dropout: float = 0.0,
) -> TransformerXLLMHeadModel:
    """Return our model with ``weights``; sizes are read from their shapes.

    Args:
        weights: the state dict of the authors' MemTransformerLM or of TransfoXLLMHeadModel.
        mem_len: positions of memory, which no weight tells.
        clamp_len: distances beyond it count as it; None: no limit.
        same_length: see `TransformerXLConfig`.
        pre_norm: the model was trained with pre_lnorm.
        cutoffs: of the adaptive softmax; needed where div_val is 1, elsewhere read from the shapes.
        num_heads: N; needed with absolute positions, elsewhere read from the shapes.
        dropout: for further training.
        attention_dropout: for further training.

    Raises:
        CheckpointError: the weights are not those of such a model, or of one that ours cannot be.
        ConfigError: an option does not fit the weights.
    """
    weights = plain_names(weights)
    sizes = model_sizes(weights, cutoffs=cutoffs, num_heads=num_heads)
    config = TransformerXLConfig(
        **sizes,
        mem_len=mem_len,
        clamp_len=clamp_len,
        same_length=same_length,
        pre_norm=pre_norm,
        final_norm=False,
        dropout=dropout,
        attention_dropout=attention_dropout,
    )
    if pre_norm and config.position_embedding_type == "absolute":
        raise CheckpointError(
            "absolute positions with pre_lnorm: there the queries are not normalized but the keys "
            "are, which no option of this model does."
        )
    model = TransformerXLLMHeadModel(config)
    state = convert_weights(weights, config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in state.items()}
    if expected != found:
        differing = sorted(
            name for name in {*expected, *found} if expected.get(name) != found.get(name)
        )
        name = differing[0]
        raise CheckpointError(
            f"{len(differing)} tensors do not have the shapes of one Transformer-XL, the first is "
            f"{name}: {_shape(found.get(name))}, expected {_shape(expected.get(name))}. Is the "
            "file complete, and are the cutoffs those of training?"
        )
    model.load_state_dict(state)
    return model.eval()


def plain_names(weights: Weights) -> dict[str, Tensor]:
    """Return ``weights`` with the authors' names, without constants, and the tails in order.

    transformers puts its own prefix before the names, and leaves out of safetensors what the
    softmax shares with the embedding; and the authors' softmax looks for tail i at the i-th entry
    from the end, where transformers' does so from the start.
    """
    unwrapped = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    from_authors = not any(name.startswith("transformer.") for name in unwrapped)
    found = {name.removeprefix("transformer."): tensor for name, tensor in unwrapped.items()}
    found.pop("pos_emb.inv_freq", None)
    for name in ("crit.cluster_weight", "crit.cluster_bias"):
        if from_authors and name in found:
            found[name] = found[name].flip(0)
    return _tied(found) | found


def _tied(weights: Weights) -> dict[str, Tensor]:
    """Return what the softmax shares with the embedding under the softmax's names.

    A file of safetensors has shared tensors once, under the embedding's.
    """
    num_tables = len([name for name in weights if name.startswith("word_emb.emb_layers.")])
    shared = {}
    for index in range(len(weights.get("crit.cluster_weight", ())) + 1):
        table = f"word_emb.emb_layers.{index}.weight"
        if table in weights:
            shared[f"crit.out_layers.{index}.weight"] = weights[table]
        projection = f"word_emb.emb_projs.{index if num_tables > 1 else 0}"
        if projection in weights:
            shared[f"crit.out_projs.{index}"] = weights[projection]
    return shared


def model_sizes(
    weights: Weights, *, cutoffs: list[int] | None, num_heads: int | None
) -> dict[str, Any]:
    """Return the options of `TransformerXLConfig` that the shapes and equalities tell.

    Raises:
        CheckpointError: a tensor is missing, or the model is of a kind that ours cannot be.
        ConfigError: cutoffs are needed, or other than those of the weights.
    """
    _check_kind(weights)
    tables = _numbered(weights, "word_emb.emb_layers.{}.weight")
    layers = _numbered(weights, "layers.{}.dec_attn.o_net.weight")  # (D, N * H) each
    widths = [table.shape[1] for table in tables]
    div_val = 1 if len(tables) == 1 else round(widths[0] / widths[1])
    cutoffs = _cutoffs(weights, [len(table) for table in tables], cutoffs)
    per_layer = "layers.0.dec_attn.r_w_bias" in weights
    biases = weights.get("layers.0.dec_attn.r_w_bias" if per_layer else "r_w_bias")
    if biases is not None:
        num_heads = len(biases)
    if num_heads is None:
        raise ConfigError(
            "num_heads: weights with absolute positions do not tell the number of attention heads; "
            "give that of training."
        )
    return {
        "vocab_size": sum(len(table) for table in tables),
        "hidden_size": len(layers[0]),
        "num_hidden_layers": len(layers),
        "num_attention_heads": num_heads,
        "head_dim": layers[0].shape[1] // num_heads,
        "intermediate_size": len(_get(weights, "layers.0.pos_ff.CoreNet.0.weight")),
        "position_embedding_type": "absolute" if biases is None else "relative",
        "biases_per_layer": per_layer,
        "cutoffs": cutoffs,
        "div_val": div_val,
        "embedding_size": widths[0],
        "project_all_clusters": div_val > 1,
    } | _ties(weights, div_val)


def _check_kind(weights: Weights) -> None:
    if any(name.startswith("out_layer.") for name in weights):
        raise CheckpointError(
            "the weights are of a model with sampled softmax, whose probabilities are not those "
            "of an adaptive or an ordinary softmax; it cannot be imported."
        )
    if any(name.split(".")[-1] == "r_emb" for name in weights):
        raise CheckpointError(
            "the weights have learnt position vectors (attn_type 1 or 3); only the relative "
            "positions of the paper (0) and absolute sinusoids (2) can be imported."
        )


def _cutoffs(weights: Weights, lengths: list[int], given: list[int] | None) -> list[int]:
    """Return the cutoffs that the embedding's ``lengths`` tell, else those ``given``."""
    told = list(accumulate(lengths))[:-1]
    if told and given not in (None, told):
        raise ConfigError(f"cutoffs: {given}, but the weights are cut at {told}; leave them out.")
    cutoffs = told or list(given or ())
    num_tails = len(weights.get("crit.cluster_weight", ()))
    if len(cutoffs) != num_tails:
        raise ConfigError(
            f"cutoffs: {cutoffs} make {len(cutoffs)} tails, but the weights have {num_tails}, and "
            "with a div_val of 1 their shapes do not tell where; give the cutoffs of training."
        )
    return cutoffs


def _ties(weights: Weights, div_val: int) -> dict[str, Any]:
    """Return which vectors and projections the softmax shares: those that are equal."""
    tied = all(
        torch.equal(tensor, _get(weights, f"crit.out_layers.{index}.weight"))
        for index, tensor in enumerate(_numbered(weights, "word_emb.emb_layers.{}.weight"))
    )
    projections = _projections(weights)
    if not tied or not projections:
        return {"tie_word_embeddings": tied}
    of_embedding = [
        _get(weights, f"word_emb.emb_projs.{index if div_val > 1 else 0}") for index in projections
    ]
    pairs = zip(projections.values(), of_embedding, strict=True)
    return {
        "tie_word_embeddings": True,
        "tie_projections": [torch.equal(own, theirs) for own, theirs in pairs],
    }


def _projections(weights: Weights) -> dict[int, Tensor]:
    """Return the softmax's projections by cluster; none where there is no need of any."""
    start = "crit.out_projs."
    numbers = sorted(int(name.removeprefix(start)) for name in weights if name.startswith(start))
    return {number: weights[f"{start}{number}"] for number in numbers}


def convert_weights(weights: Weights, config: TransformerXLConfig) -> dict[str, Tensor]:
    """Return ``weights``, with names as of `plain_names`, under the names of our model.

    Every entry is copied, none is computed: gradients are converted the same way.
    """
    state = _tables(weights, "word_emb.emb_layers.{}.weight", "transformer.embedding", config)
    for index, projection in enumerate(_numbered(weights, "word_emb.emb_projs.{}")):
        state[f"transformer.embedding.clusters.{index}.projection"] = projection
    for index in range(config.num_hidden_layers):
        theirs, ours = f"layers.{index}.", f"transformer.layers.{index}."
        state |= {
            ours + new: weights[theirs + old]
            for old, new in LAYER_NAMES.items()
            if theirs + old in weights
        }
        if f"{theirs}dec_attn.qkv_net.weight" in weights:
            parts = weights[f"{theirs}dec_attn.qkv_net.weight"].chunk(3)
            state[f"{ours}attention.query.weight"] = parts[0]
            state[f"{ours}attention.key_value.weight"] = torch.cat(parts[1:])
    if config.position_embedding_type == "relative":
        for old, new in (("r_w_bias", "content_bias"), ("r_r_bias", "position_bias")):
            if config.biases_per_layer:
                bias = torch.stack(_numbered(weights, "layers.{}.dec_attn." + old))
            else:
                bias = _get(weights, old)
            state[f"transformer.{new}"] = bias.unsqueeze(-2)
    state["softmax.bias"] = torch.cat(_numbered(weights, "crit.out_layers.{}.bias"))
    empty = torch.empty(0, config.embedding_size)
    state["softmax.tail_weight"] = weights.get("crit.cluster_weight", empty)
    state["softmax.tail_bias"] = weights.get("crit.cluster_bias", empty[:, 0])
    projections = _projections(weights)
    if config.tie_word_embeddings:
        tied = config.tie_projections or [True] * len(projections)
        own = {index: weight for index, weight in projections.items() if not tied[index]}
        return state | {f"softmax.projections.{index}": own[index] for index in own}
    state |= _tables(weights, "crit.out_layers.{}.weight", "output_tables", config)
    if config.div_val == 1 and any(not p.equal(projections[0]) for p in projections.values()):
        raise CheckpointError(
            "the softmax has vectors of its own and a projection for each part of them, with a "
            "div_val of 1; here such vectors share one projection."
        )
    shared = projections if config.div_val > 1 else dict(list(projections.items())[:1])
    return state | {f"output_tables.clusters.{index}.projection": shared[index] for index in shared}


def _tables(
    weights: Weights, theirs: str, ours: str, config: TransformerXLConfig
) -> dict[str, Tensor]:
    """Return the vectors of words by cluster; with a div_val of 1 theirs are in one table."""
    tables = _numbered(weights, theirs)
    if config.div_val == 1:
        edges = [0, *config.cutoffs, config.vocab_size]
        tables = [tables[0][start:end] for start, end in zip(edges[:-1], edges[1:], strict=True)]
    return {f"{ours}.clusters.{index}.weight": table for index, table in enumerate(tables)}


def _numbered(weights: Weights, name: str) -> list[Tensor]:
    """Return the tensors whose names are ``name`` with 0, 1, ... in it, as far as there are any."""
    numbers = takewhile(lambda number: name.format(number) in weights, count())
    found = [weights[name.format(number)] for number in numbers]
    if not found and "projs" not in name:
        _get(weights, name.format(0))
    return found


def _get(weights: Weights, name: str) -> Tensor:
    if name not in weights:
        raise CheckpointError(
            f"there is no tensor {name}: these are not the weights of a Transformer-XL language "
            f"model as its authors or transformers 4 saved it. Found: {', '.join([*weights][:5])}."
        )
    return weights[name]


def _shape(shape: torch.Size | None) -> str:
    return "absent" if shape is None else str(tuple(shape))
