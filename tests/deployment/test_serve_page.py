import re

import pytest

pytest.importorskip("fastapi")

from nlpapp.deployment.export import export_classifier
from nlpapp.deployment.runtime import Predictor
from nlpapp.deployment.serve_page import COLOURS, CONTENT_SECURITY_POLICY, PAGE
from nlpapp.deployment.serve_process import BackgroundServer, ServerSettings
from tests.deployment.chromium import PROGRAM, Chromium
from tests.deployment.models import build_model, load_tokenizer

needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium")

TEXT = "the film was good \U0001f600 but the cat ran"


def luminance(colour):
    """Return the relative luminance of #rrggbb or (r, g, b), as WCAG 2.2 defines it."""
    if isinstance(colour, str):
        colour = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    parts = [value / 255 for value in colour]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_formula_of_contrast_gives_the_known_values():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(
    ("front", "grounds", "least"),
    [
        ("text", ("ground", "panel", "for", "against"), 4.5),
        ("quiet", ("ground", "panel"), 4.5),
        ("fault", ("ground", "panel"), 4.5),
        ("on-accent", ("accent",), 4.5),
        ("line", ("ground",), 3),
        ("accent", ("ground", "panel"), 3),
        ("focus", ("ground", "panel"), 3),
        ("for-line", ("panel", "for"), 3),
        ("against-line", ("panel", "against"), 3),
    ],
)
def test_colours_have_contrast(front, grounds, least):
    for ground in grounds:
        found = contrast(COLOURS[front], COLOURS[ground])
        assert found >= least, f"{front} on {ground}: {found:.2f}"


def test_the_page_has_nothing_from_elsewhere():
    assert not re.findall(r"https?://|//[a-z]", PAGE)
    assert not re.findall(r"\ssrc=|@import|url\(", PAGE)
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY


@pytest.fixture(scope="module")
def folders(tiny_tokenizer_folder, tmp_path_factory):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    folder = tmp_path_factory.mktemp("served")
    for name in ("bert", "bilstm"):
        export_classifier(build_model(name), tokenizer, folder / name, max_seq_length=48, batches=2)
    return folder


@pytest.fixture
def page(folders, tmp_path):
    """The page of a server of two models in a headless Chromium."""
    models = [str(folders / name) for name in ("bert", "bilstm")]
    settings = ServerSettings(models=models, drain_seconds=0.0)
    with BackgroundServer(settings) as server, Chromium(tmp_path / "profile") as browser:
        browser.url = server.url
        browser.open(server.url + "/")
        browser.wait_for("document.getElementById('state').textContent === 'Ready.'")
        yield browser


def focused(page):
    return page.run("document.activeElement.id || document.activeElement.tagName.toLowerCase()")


CONTRASTS = """
[...document.querySelectorAll('main *')].flatMap(node => {
  const own = [...node.childNodes].some(c => c.nodeType === 3 && c.textContent.trim());
  if (!own || !node.checkVisibility() || node.tagName === 'SCRIPT') return [];
  const style = getComputedStyle(node);
  let ground = node, colour = 'rgba(0, 0, 0, 0)';
  while (ground && colour === 'rgba(0, 0, 0, 0)') {
    colour = getComputedStyle(ground).backgroundColor;
    ground = ground.parentElement;
  }
  return [[node.tagName, style.color, colour]];
})
"""


@needs_chromium
def test_a_sentence_is_compared_with_the_keyboard_alone(page, folders):
    order = []
    for _ in range(6):
        page.press("Tab")
        order.append(focused(page))
        if order[-1] == "text":
            page.type(TEXT)
    assert order == ["text", "pair", "first", "second", "summary", "button"]
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.run(outline) == "solid"
    page.press("Enter")
    page.wait_for("document.getElementById('state').textContent === 'Done.'")
    for side, name in (("left", "bert"), ("right", "bilstm")):
        (expected,) = Predictor(folders / name).predict([TEXT])
        shown = page.run(f"document.getElementById('{side}').innerText")
        assert name in shown
        assert f"Answer: {expected['label']}" in shown
        for label, value in expected["probabilities"].items():
            assert re.search(rf"{label}\s+{100 * value:.1f} %", shown)
        line = f"document.querySelector('#{side} .words')"
        marks = page.run(f"[...{line}.querySelectorAll('mark')].map(m => m.firstChild.data)")
        assert marks == ["the", "film", "was", "good", "but", "the", "cat", "ran"]
        plain = "(n => (n.querySelectorAll('small').forEach(s => s.remove()), n.textContent))"
        assert page.run(f"{plain}({line}.cloneNode(true))") == TEXT
        assert page.run(f"{line}.querySelectorAll('mark.for, mark.against').length") >= 1
    assert not page.problems
    assert {url.removeprefix(page.url) for url in page.requests} <= {
        *("/", "/models", "/explain", "data:,")
    }


@needs_chromium
def test_a_pair_is_compared_and_what_is_shown_has_contrast(page):
    page.run("document.getElementById('text').focus()")
    page.type("a good film <b>bold</b>")
    page.press("Tab")
    page.type("a bad film")
    page.press("Enter", modifiers=2)
    page.wait_for("document.getElementById('state').textContent === 'Done.'")
    assert page.run("document.querySelectorAll('#left .words').length") == 2
    assert page.run("document.querySelectorAll('section b').length") == 0
    found = page.run(CONTRASTS)
    assert len(found) > 20
    low = []
    for name, front, ground in found:
        colours = [list(map(float, re.findall(r"[\d.]+", text)))[:3] for text in (front, ground)]
        if contrast(*colours) < 4.5:
            low.append((name, front, ground))
    assert not low


@needs_chromium
def test_only_the_last_of_two_comparisons_is_shown(page):
    for text in ("a good film", "a bad cat"):
        page.run(f"at('text').value = '{text}'; at('form').requestSubmit()")
    page.wait_for("at('state').textContent === 'Done.'")
    page.run("new Promise(done => setTimeout(done, 200))")
    for side in ("left", "right"):
        marks = f"[...document.querySelectorAll('#{side} mark')].map(m => m.firstChild.data)"
        assert page.run(marks) == ["a", "bad", "cat"]


@needs_chromium
def test_every_field_has_a_label_and_an_empty_text_is_named(page):
    unnamed = "[...document.querySelectorAll('input, select, textarea')].filter(n => !n.labels[0])"
    assert page.run(f"{unnamed}.length") == 0
    page.run("document.querySelector('button').focus()")
    page.press(" ")
    page.wait_for("document.getElementById('state').textContent === 'Type a text first.'")
    assert focused(page) == "text"
    assert page.run("document.getElementById('state').getAttribute('role')") == "status"


@needs_chromium
def test_a_narrow_page_does_not_scroll_sideways(page):
    size = {"width": 320, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    page.run("document.getElementById('text').focus()")
    page.type("a good film " + "x" * 80)
    page.press("Enter", modifiers=2)
    page.wait_for("document.getElementById('state').textContent === 'Done.'")
    assert page.run("document.documentElement.scrollWidth") <= 320
