"""Attention as one HTML page to look around in: its own script, and nothing loaded from anywhere.

The numbers are in the page as 16-bit integers in base64: weights in steps of 1/65535, queries and
keys in steps of 1/32767 of the largest. Scores made from them agree with the model's to about
three digits.
"""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from nlpapp.errors import ConfigError
from nlpapp.evaluation.attention_script import SCRIPT
from nlpapp.evaluation.attention_views import AttentionPicture
from nlpapp.evaluation.page import ENVIRONMENT, write_page

LARGEST_PAGE = 64_000_000
"""Bytes of numbers a page may hold; a browser becomes slow beyond."""


def page_bytes(picture: AttentionPicture) -> int:
    """Return about how many bytes the numbers of ``picture`` take in a page."""
    arrays = (
        picture.weights,
        *(picture.queries, picture.keys, picture.position_queries, picture.position_keys),
    )
    return sum(array.size * 2 * 4 // 3 for array in arrays if array is not None)


def write_attention_page(
    path: Path, picture: AttentionPicture, *, title: str, subtitle: str = "", note: str = ""
) -> Path:
    """Write head, model and neuron view of ``picture`` as one HTML file; return ``path``.

    The page is written beside ``path`` and renamed, so an interrupted write leaves the old one.

    Args:
        path: the HTML file.
        picture: the text and its attention.
        title: heading, such as the text.
        subtitle: what the model is.
        note: what the reader must know, such as that the text was cut.

    Raises:
        ConfigError: the page would be too large to look at.
    """
    size = page_bytes(picture)
    if size > LARGEST_PAGE:
        layers, heads, queries, keys = picture.weights.shape
        raise ConfigError(
            f"a page for {layers} layers, {heads} heads, {queries} tokens and {keys} keys would "
            f"take {size / 1e6:.0f} MB, at most {LARGEST_PAGE / 1e6:.0f} MB are shown; lower "
            "max_seq_length, or choose some layers (--layers '[0, -1]')."
        )
    body = BODY.render(note=note, script=Markup(SCRIPT), data=Markup(_json(page_data(picture))))
    heading = {"title": title, "window_title": f"Attention: {title}", "subtitle": subtitle}
    return write_page(path, body=body, style=STYLE, policy=POLICY, **heading)


def page_data(picture: AttentionPicture) -> dict[str, Any]:
    """Return what the page's script reads: tokens, sizes, and numbers in base64."""
    layers, heads, queries, keys = picture.weights.shape
    neurons = None
    if picture.has_neurons:
        assert picture.queries is not None and picture.scales is not None
        arrays = {
            name: _packed(getattr(picture, name))
            for name in ("queries", "keys", "position_queries", "position_keys")
            if getattr(picture, name) is not None
        }
        scales = [float(scale) for scale in picture.scales]
        neurons = {"width": picture.queries.shape[-1], "scales": scales, **arrays}
    weights = np.rint(picture.weights * 65535).astype("<u2")
    return {
        "tokens": [str(token) for token in picture.key_tokens],
        "memory": picture.memory,
        "segments": [int(segment) for segment in picture.segments] or [0] * keys,
        "special": [bool(special) for special in picture.special] or [False] * keys,
        "layers": [int(number) for number in picture.layer_numbers],
        "heads": heads,
        "queries": queries,
        "keys": keys,
        "weights": base64.b64encode(weights.tobytes()).decode("ascii"),
        "neurons": neurons,
    }


def _packed(values: np.ndarray) -> dict[str, Any]:
    step = float(np.abs(values).max(initial=0.0)) / 32767 or 1.0
    integers = np.rint(values / step).astype("<i2")
    return {"step": step, "data": base64.b64encode(integers.tobytes()).decode("ascii")}


def _json(data: dict[str, Any]) -> str:
    """Return JSON that cannot end the script element it stands in, whatever the tokens are."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


STYLE = """
:root { color-scheme: light dark; --ink: #24292f; --soft: #57606a; --paper: #ffffff; --box: #f6f8fa;
  --line: #d8dee4; --accent: #0072b2; --on-accent: #ffffff; --lum: 38%; --plus: 0,114,178;
  --minus: 213,94,0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa5b1; --paper: #0f141a;
  --box: #1a212a; --line: #313a45; --accent: #56b4e9; --on-accent: #0f141a; --lum: 66%;
  --plus: 86,180,233; --minus: 240,140,60; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
.page { max-width: 75rem; margin: 0 auto; padding: 1.6rem 1.2rem 3rem; }
h1 { font-size: 1.4rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
.soft, .subtitle, footer { color: var(--soft); font-size: 0.9rem; margin: 0.4rem 0; }
.note { border-left: 4px solid var(--accent); background: var(--box); padding: 0.5rem 0.8rem; }
[role=tablist] { display: flex; gap: 0.3rem; border-bottom: 2px solid var(--line);
  margin: 1rem 0 0.8rem; }
button, select, input { font: inherit; color: inherit; }
button { background: var(--box); border: 1px solid var(--line); border-radius: 6px;
  padding: 0.2rem 0.6rem; cursor: pointer; }
[role=tab] { border-bottom: 0; border-radius: 6px 6px 0 0; padding: 0.4rem 1rem; }
[aria-selected=true], button[aria-pressed=true] { background: var(--accent);
  color: var(--on-accent); border-color: var(--accent); }
select { background: var(--box); border: 1px solid var(--line); border-radius: 6px;
  padding: 0.2rem; max-width: 16rem; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.controls { display: flex; flex-wrap: wrap; gap: 0.5rem 1.2rem; align-items: center;
  margin: 0.6rem 0; }
.controls[hidden], [hidden] { display: none; }
.heads { display: flex; flex-wrap: wrap; gap: 0.25rem; border: 0; padding: 0; margin: 0; }
.heads button { padding: 0.1rem 0.45rem; font-size: 0.85rem; }
.heads button[aria-pressed] { border-left-width: 8px; }
.status { min-height: 3em; }
.lines { display: grid; grid-template-columns: minmax(6rem, 14rem) minmax(8rem, 22rem)
  minmax(6rem, 14rem); align-items: start; }
.column { display: flex; flex-direction: column; }
.token { height: 22px; line-height: 20px; padding: 0 0.4rem; border-radius: 4px; font-size: 13px;
  white-space: pre; overflow: hidden; text-overflow: ellipsis; background: none;
  border-color: transparent; position: relative; isolation: isolate; }
.column.left .token { text-align: right; }
.column.right .token { text-align: left; }
.token.second { font-style: italic; }
.token.memory { color: var(--soft); }
.token:hover, .token[aria-pressed=true] { background: var(--box); border-color: var(--accent);
  color: var(--ink); font-weight: 650; }
.token i { position: absolute; left: 0; top: 1px; bottom: 1px; z-index: -1;
  background: rgba(var(--plus), 0.35); }
.column.left .token i { left: auto; right: 0; }
svg { width: 100%; display: block; }
svg path { fill: none; stroke-width: 1.5; }
.wide { overflow-x: auto; }
.maps { border-collapse: collapse; }
.maps th { font-size: 0.8rem; font-weight: 600; color: var(--soft); padding: 0.1rem 0.35rem; }
.maps td { padding: 1px; }
.maps button { padding: 2px; display: block; border-radius: 3px; background: #ffffff; }
.maps canvas { width: 80px; height: 80px; image-rendering: pixelated; display: block; }
.neurons { border-collapse: collapse; font-size: 13px; }
.neurons th, .neurons td { padding: 0 0.6rem 0 0; text-align: left; height: 21px;
  white-space: pre; }
.neurons th { color: var(--soft); font-weight: 600; }
.neurons td.number { text-align: right; font-variant-numeric: tabular-nums; }
.neurons canvas { width: 256px; height: 15px; image-rendering: pixelated; display: block;
  background: var(--box); }
.neurons tr.query { border-bottom: 2px solid var(--line); }
.neurons td.bar { width: 150px; }
.bar span { display: block; height: 12px; background: var(--accent); }
footer { margin-top: 2rem; padding-top: 0.6rem; border-top: 1px solid var(--line); }
@media print { [role=tablist], .controls { display: none; } }
"""

POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
)
BODY = ENVIRONMENT.from_string(
    """{% if note %}
<p class="note">{{ note }}</p>
{% endif %}
<noscript><p class="note">This page needs its own script to draw; allow it, or look at the PNG
files that were written with it.</p></noscript>
<main>
<div role="tablist" aria-label="Views">
<button role="tab" id="tab-head" aria-controls="view-head" aria-selected="true">Head view</button>
<button role="tab" id="tab-model" aria-controls="view-model" aria-selected="false" tabindex="-1">\
Model view</button>
<button role="tab" id="tab-neuron" aria-controls="view-neuron" aria-selected="false" tabindex="-1">\
Neuron view</button>
</div>
<p class="soft" id="keys-help">Keys: Tab moves between parts; in the views' names, the tokens and
the maps the arrow keys move; Enter chooses.</p>
<div class="controls">
<label id="layer-box">Layer <select id="layer"></select></label>
<label id="head-box" hidden>Head <select id="head"></select></label>
<label id="query-box" hidden>Token <select id="query"></select></label>
<label id="part-box">Show <select id="part"></select></label>
<label id="special-box"><input type="checkbox" id="special"> leave out special tokens</label>
<label id="least-box">Lines from <input type="range" id="least" min="1" max="50" value="5"
 aria-valuetext="5 percent"> <output id="least-value">5 %</output></label>
</div>
<section role="tabpanel" id="view-head" aria-labelledby="tab-head">
<div class="controls"><span>Heads</span><div class="heads" id="heads" role="group"
 aria-label="Heads"></div></div>
<p class="soft status" id="head-status" role="status"></p>
<p class="note" id="no-lines" hidden>No weight is large enough for a line: move \u201cLines
from\u201d to the left, or show more heads.</p>
<div class="lines">
<div class="column left" id="left" role="group" aria-label="Queries: tokens that look"></div>
<svg id="drawing" aria-hidden="true"></svg>
<div class="column right" id="right" role="group" aria-label="Keys: tokens looked at"></div>
</div>
</section>
<section role="tabpanel" id="view-model" aria-labelledby="tab-model" hidden>
<p class="soft" id="model-status">Queries down, keys across; dark is much (the square root of the
weight). Choose a map to see its lines.</p>
<div class="wide"><table class="maps" id="maps"></table></div>
</section>
<section role="tabpanel" id="view-neuron" aria-labelledby="tab-neuron" hidden>
<p class="soft status" id="neuron-status" role="status"></p>
<div class="wide"><table class="neurons" id="neurons"></table></div>
</section>
</main>
<script type="application/json" id="numbers">{{ data }}</script>
<script>{{ script }}</script>"""
)
