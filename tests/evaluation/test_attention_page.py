"""The page: everything inside, numbers as close to the model's as it says, any text escaped."""

import base64
import json
import re

import numpy as np
import pytest

from nlpapp.errors import ConfigError
from nlpapp.evaluation import attention_page
from nlpapp.evaluation.attention_page import page_bytes, page_data, write_attention_page
from nlpapp.evaluation.attention_views import AttentionPicture
from tests.evaluation.test_attention_views import TOKENS, picture, softmax
from tests.evaluation.test_page import Page


def numbers_in(text):
    """What the page's script reads."""
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text)[1])


def unpacked(packed, *shape):
    integers = np.frombuffer(base64.b64decode(packed["data"]), "<i2")
    return integers.reshape(shape) * packed["step"]


def weights_in(data):
    integers = np.frombuffer(base64.b64decode(data["weights"]), "<u2")
    shape = (len(data["layers"]), data["heads"], data["queries"], data["keys"])
    return integers.reshape(shape) / 65535


def recomputed_weights(data):
    """Softmax of the products of what stands in the page: (L, N, T, K)."""
    neurons, shape = data["neurons"], weights_in(data).shape
    layers, heads, queries, keys = shape
    vectors = {
        name: unpacked(neurons[name], layers, heads, -1, neurons["width"])
        for name in ("queries", "keys", "position_queries", "position_keys")
        if name in neurons
    }
    scores = np.einsum("lnih,lnjh->lnij", vectors["queries"], vectors["keys"])
    if "position_keys" in vectors:
        for i, j in np.ndindex(queries, keys):
            distance = data["memory"] + i - j
            at = vectors["position_keys"][:, :, max(distance, 0)]
            scores[:, :, i, j] += (vectors["position_queries"][:, :, i] * at).sum(-1)
            scores[:, :, i, j] += -np.inf if distance < 0 else 0
    return softmax(scores * np.array(neurons["scales"])[:, None, None, None])


def assert_nothing_is_loaded(text):
    assert not re.search(r"https?:|//\w|\bfetch\b|XMLHttpRequest|WebSocket|import\(", text)
    assert "default-src 'none'" in text
    page = Page(text)
    assert not {"link", "iframe", "object", "embed", "img", "form"} & set(page.tags)
    loading = ("src", "href", "srcset", "action", "data", "poster")
    for tag, attributes in page.attributes:
        found = [name for name in attributes if name in loading or name.startswith("on")]
        assert not found, f"<{tag}> has {found}"
    assert "@import" not in text
    assert "url(" not in text
    return page


def test_page_is_sound_and_loads_nothing(tmp_path):
    path = write_attention_page(
        tmp_path / "deep" / "attention.html",
        picture(),
        title="A text",
        subtitle="a model",
        note="It was cut.",
    )
    page = assert_nothing_is_loaded(path.read_text(encoding="utf-8"))
    assert page.tags.count("script") == 2
    assert [values["role"] for _, values in page.attributes if values.get("role") == "tab"] == [
        "tab"
    ] * 3
    assert {"A text", "a model", "It was cut."} <= set(page.text)
    assert not list(path.parent.glob("*.partial"))


@pytest.mark.parametrize("relative", [False, True])
def test_numbers_in_the_page_are_those_of_the_model(relative):
    made = picture(memory=2, tokens=list("abcdef"), positions=True) if relative else picture()
    data = page_data(made)
    np.testing.assert_allclose(weights_in(data), made.weights, atol=0.5 / 65535 + 1e-7)
    np.testing.assert_allclose(recomputed_weights(data), made.weights, atol=1e-3)
    assert len(data["weights"]) + sum(
        len(part["data"]) for part in data["neurons"].values() if isinstance(part, dict)
    ) == pytest.approx(page_bytes(made), rel=0.05)


def test_texts_cannot_leave_their_place(tmp_path):
    evil = "</script><script>alert('x')</script> & \"quotes\" <!--"
    made = picture(tokens=[evil, "b", "c", "d"])
    path = write_attention_page(tmp_path / "a.html", made, title=evil, subtitle=evil, note=evil)
    text = path.read_text(encoding="utf-8")
    assert numbers_in(text)["tokens"][0] == evil
    page = Page(text)
    assert page.tags.count("script") == 2
    assert page.text.count(evil) == 3  # heading, subtitle, note; the page's title has more words
    assert "<script>alert" not in text


def test_without_queries_there_are_only_weights():
    data = page_data(AttentionPicture(key_tokens=TOKENS, weights=picture().weights))
    assert data["neurons"] is None
    assert data["segments"] == [0] * 4
    assert data["special"] == [False] * 4


def test_a_page_too_large_to_look_at_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(attention_page, "LARGEST_PAGE", 100)
    with pytest.raises(ConfigError, match="2 layers, 2 heads, 4 tokens .* lower max_seq_length"):
        write_attention_page(tmp_path / "a.html", picture(), title="t")
    assert not list(tmp_path.iterdir())


def luminance(colour):
    """Relative luminance of #rrggbb as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("front", "back"),
    [("ink", "paper"), ("ink", "box"), ("soft", "paper"), ("soft", "box"), ("on-accent", "accent")],
)
def test_letters_stand_out_from_what_is_behind_them(theme, front, back):
    declarations = re.findall(r":root \{(.*?)\}", attention_page.STYLE, re.DOTALL)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", declarations))
    light, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5
