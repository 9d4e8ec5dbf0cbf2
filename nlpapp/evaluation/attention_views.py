"""Attention of one text as pictures: all heads at a glance, one layer's lines, one head's neurons.

The three views are those of Vig 2019, "A Multiscale Visualization of Attention in the Transformer
Model" (arXiv 1906.05714).

Legend: L = layers, N = heads, T = queries (tokens of the text), M = memory positions, K = M + T
(keys), H = width of a head.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from nlpapp.evaluation.plots import DOTS_PER_INCH, INK, PALETTE

logger = logging.getLogger("nlpapp")

FAINTEST = 0.02
"""Smaller weights get no line: they would be invisible, and there are many."""
MOST_INCHES = 40.0
BYTE_LEVEL_BLANK = "\u0120"


@dataclass(frozen=True, kw_only=True)
class AttentionPicture:
    """One text and what attention did with it; without queries there is no neuron view."""

    key_tokens: Sequence[str]
    """K tokens as a reader knows them, memory first; the last T are the queries."""
    memory: int = 0
    """M, the tokens that were read before the text."""
    segments: Sequence[int] = ()
    """0 or 1 for each of the K tokens: first or second text of a pair; empty: all 0."""
    special: Sequence[bool] = ()
    """Whether each of the K tokens is one like [SEP]; empty: none is."""
    layers: Sequence[int] = ()
    """The numbers of the L layers, counted from 0; empty: 0 ... L-1."""
    weights: np.ndarray
    """(L, N, T, K); each row sums to 1."""
    scales: np.ndarray | None = None
    """(L,): products are multiplied by it to give scores."""
    queries: np.ndarray | None = None
    """(L, N, T, H)"""
    keys: np.ndarray | None = None
    """(L, N, K, H)"""
    position_queries: np.ndarray | None = None
    """(L, N, T, H); of a Transformer-XL only."""
    position_keys: np.ndarray | None = None
    """(L, N, K, H) for distances 0 ... K-1; of a Transformer-XL only."""

    def __post_init__(self) -> None:
        layers, _, queries, keys = self.weights.shape
        assert len(self.key_tokens) == keys == self.memory + queries
        assert not self.layers or len(self.layers) == layers
        for extra in (self.segments, self.special):
            assert not extra or len(extra) == keys

    @property
    def query_tokens(self) -> list[str]:
        """The T tokens of the text itself."""
        return list(self.key_tokens)[self.memory :]

    @property
    def layer_numbers(self) -> list[int]:
        """What the L layers are called, counted from 0."""
        return list(self.layers) or list(range(len(self.weights)))

    def of_layers(self, kept: Sequence[int]) -> "AttentionPicture":
        """Return the picture with only the layers at the indices ``kept``."""
        arrays = ("weights", "scales", "queries", "keys", "position_queries", "position_keys")
        parts = {name: getattr(self, name) for name in arrays}
        parts = {name: None if part is None else part[list(kept)] for name, part in parts.items()}
        return replace(self, layers=[self.layer_numbers[index] for index in kept], **parts)

    @property
    def has_neurons(self) -> bool:
        """Whether queries and keys are known."""
        return self.queries is not None and self.keys is not None and self.scales is not None


def readable_tokens(pieces: Sequence[str], join: Callable[[list[str]], str]) -> list[str]:
    """Return pieces as a reader knows them: letters in place of the bytes of RoBERTa and its kin.

    Args:
        pieces: as the vocabulary has them; those of WordPiece are readable already.
        join: makes text of pieces, as the tokenizer's convert_tokens_to_string does.
    """
    if not any(BYTE_LEVEL_BLANK in piece for piece in pieces):
        return list(pieces)
    # A piece may be half a letter; as bytes it can at least be told from others.
    texts = [(piece, join([piece])) for piece in pieces]
    return [text if text and "\N{REPLACEMENT CHARACTER}" not in text else p for p, text in texts]


def filled_segments(segments: Sequence[int | None]) -> list[int]:
    """Return the text, 0 or 1, of each token; a special token belongs to the text before it."""
    filled: list[int] = []
    for segment in segments:
        filled.append(segment if segment is not None else filled[-1] if filled else 0)
    return filled


def products(picture: AttentionPicture, layer: int, head: int, query: int) -> np.ndarray:
    """Return the part of each neuron in the scores of one query, before scaling: (K, H).

    Of a Transformer-XL, the products with position vectors are in it. Keys later than the query
    have NaN there: they have no distance.
    """
    assert picture.queries is not None and picture.keys is not None
    found = picture.queries[layer, head, query] * picture.keys[layer, head]
    if picture.position_queries is not None and picture.position_keys is not None:
        distances = picture.memory + query - np.arange(len(found))
        position_keys = picture.position_keys[layer, head][np.maximum(distances, 0)]
        found = found + picture.position_queries[layer, head, query] * position_keys
        found[distances < 0] = np.nan
    return found


def plot_views(
    picture: AttentionPicture, folder: Path, *, layer: int, head: int | None, query: int
) -> None:
    """Write head_view.png, model_view.png and, with queries and keys, neuron_view.png.

    Args:
        picture: the text and its attention.
        folder: is created if absent.
        layer: index among the picture's layers, for head view and neuron view.
        head: for the same; None: all heads, and 0 in the neuron view.
        query: index among the T tokens of the text, for the neuron view.
    """
    heads = None if head is None else [head]
    plot_head_view(picture, folder / "head_view.png", layer=layer, heads=heads)
    plot_model_view(picture, folder / "model_view.png")
    if picture.has_neurons:
        path = folder / "neuron_view.png"
        plot_neuron_view(picture, path, layer=layer, head=head or 0, query=query)


def plot_head_view(
    picture: AttentionPicture, output: Path, *, layer: int, heads: Sequence[int] | None = None
) -> Path:
    """Draw lines from each query to the keys it attends to, a colour a head; return ``output``.

    Args:
        picture: the text and its attention.
        output: a PNG file.
        layer: index among the picture's layers.
        heads: which ones; None: all.
    """
    num_heads = picture.weights.shape[1]
    chosen = list(range(num_heads)) if heads is None else list(heads)
    queries, keys = len(picture.query_tokens), len(picture.key_tokens)
    figure, axes = _canvas(6.4, 0.19 * keys + 1.0)
    colours = _head_colours(num_heads)
    lines, shades = [], []
    for head in chosen:
        weights = picture.weights[layer, head]
        for i, j in np.argwhere(weights >= FAINTEST):
            lines.append([(0.0, picture.memory + i), (1.0, j)])
            # More heads lie on one another, so that each has to be fainter.
            opacity = 0.05 + 0.95 * weights[i, j] / len(chosen) ** 0.5
            shades.append((*colours[head], opacity))
    axes.add_collection(LineCollection(lines, colors=shades, linewidths=1.6))
    heads_named = f"head{'s' * (len(chosen) != 1)} {', '.join(map(str, chosen))}"
    for i, token in enumerate(picture.query_tokens):
        _text(axes, -0.02, picture.memory + i, token, "right")
    for j, token in enumerate(picture.key_tokens):
        _text(axes, 1.02, j, token, "left", faint=j < picture.memory)
    axes.set_xlim(-0.6, 1.6)
    axes.set_ylim(keys - 0.5, -0.8)
    axes.axis("off")
    title = f"layer {picture.layer_numbers[layer]}, {heads_named}: query to key"
    if picture.memory:
        title += f"; {picture.memory} memory positions, {queries} tokens"
    axes.set_title(title, fontsize=9, color=INK, wrap=True)
    return _save(figure, output)


def plot_model_view(picture: AttentionPicture, output: Path) -> Path:
    """Draw every layer and head as a small map, queries down and keys across; return ``output``."""
    layers, heads, queries, keys = picture.weights.shape
    side = 1.15 if layers * heads > 16 else 2.0
    figure = Figure(
        figsize=(min(MOST_INCHES, side * heads + 0.9), min(MOST_INCHES, side * layers + 0.9)),
        layout="constrained",
        facecolor="white",
    )
    FigureCanvasAgg(figure)
    panels = figure.subplots(layers, heads, squeeze=False)
    for layer, number in enumerate(picture.layer_numbers):
        for head in range(heads):
            axes = panels[layer, head]
            # The square root shows weights of one in a hundred, which are most of them.
            image = np.sqrt(picture.weights[layer, head])
            axes.imshow(image, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            if picture.memory:
                axes.axvline(picture.memory - 0.5, color="#D55E00", linewidth=0.7)
            axes.set_xticks([])
            axes.set_yticks([])
            if layer == 0:
                axes.set_title(f"head {head}", fontsize=8, color=INK)
            if head == 0:
                axes.set_ylabel(f"layer {number}", fontsize=8, color=INK)
    memory = f", {picture.memory} of them memory (left of the line)" if picture.memory else ""
    note = f"{queries} queries down, {keys} keys across{memory}; dark: much"
    figure.suptitle(note, fontsize=9, color=INK, wrap=True)
    return _save(figure, output)


def plot_neuron_view(
    picture: AttentionPicture, output: Path, *, layer: int, head: int, query: int
) -> Path:
    """Draw how the neurons of one query and each key make the scores; return ``output``.

    Args:
        picture: one with queries and keys.
        output: a PNG file.
        layer: index among the picture's layers.
        head: which one.
        query: index of the token among the T of the text.
    """
    assert picture.queries is not None and picture.keys is not None and picture.scales is not None
    keys = len(picture.key_tokens)
    parts = products(picture, layer, head, query)
    scores = parts.sum(-1) * picture.scales[layer]
    weights = picture.weights[layer, head, query]
    scores[weights == 0] = np.nan  # masked
    figure = Figure(
        figsize=(11.0, min(MOST_INCHES, 0.19 * keys + 1.6)), layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    widths = {"width_ratios": [3, 3, 0.8, 0.8], "height_ratios": [1, max(keys, 6)]}
    panels = figure.subplots(2, 4, squeeze=False, gridspec_kw=widths)
    for axes in panels[0, 1:]:
        axes.axis("off")
    query_row = picture.queries[layer, head, query][None]
    _strip(panels[0, 0], query_row, f"query {picture.query_tokens[query]!r}")
    _strip(panels[1, 0], picture.keys[layer, head], "keys")
    distance = "" if picture.position_keys is None else " + query x distance"
    _strip(panels[1, 1], parts, f"query x key{distance}, neuron by neuron")
    _strip(panels[1, 2], scores[:, None], "score")
    axes = panels[1, 3]
    axes.barh(np.arange(keys), weights, color="#0072B2")
    axes.set_ylim(keys - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_title("weight", fontsize=8, color=INK)
    axes.tick_params(labelsize=7)
    panels[1, 0].set_yticks(np.arange(keys), list(picture.key_tokens), fontsize=7)
    for label in panels[1, 0].get_yticklabels():
        label.set_parse_math(False)
    title = f"layer {picture.layer_numbers[layer]}, head {head}; blue: positive, red: negative"
    figure.suptitle(title, fontsize=9, color=INK)
    return _save(figure, output)


def _strip(axes: Axes, values: np.ndarray, title: str) -> None:
    """Show rows of numbers as colours, blue above and red below 0."""
    limit = float(np.nanmax(np.abs(values), initial=1e-9))
    axes.imshow(
        values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
    )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=8, color=INK, parse_math=False)


def _head_colours(number: int) -> np.ndarray:
    """Return an RGB colour for each head: (number, 3)."""
    if number <= len(PALETTE) - 2:  # without black and grey
        return np.array([to_rgb(colour) for colour in PALETTE[:number]])
    return colormaps["hsv"](np.arange(number) / number)[:, :3] * 0.8


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(
        figsize=(width, min(MOST_INCHES, height)), layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _text(axes: Axes, x: float, y: float, text: str, side: Any, *, faint: bool = False) -> None:
    colour = "#6a737d" if faint else INK
    axes.text(x, y, text, ha=side, va="center", fontsize=7.5, color=colour, parse_math=False)


def _save(figure: Figure, output: Path) -> Path:
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(output, dpi=DOTS_PER_INCH, metadata={"Software": "nlpapp"})
    if any("Glyph" in str(warning.message) for warning in caught):
        logger.warning("%s: matplotlib's font lacks some letters; the page has them", output)
    return output
