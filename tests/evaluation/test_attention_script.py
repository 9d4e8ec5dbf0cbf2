"""The page's script in a real browser, by keyboard alone; skipped where there is no Chromium."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from nlpapp.evaluation.attention_page import write_attention_page
from nlpapp.evaluation.attention_script import SCRIPT
from nlpapp.evaluation.attention_views import AttentionPicture, products
from tests.evaluation.test_attention_views import TOKENS, picture

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")

PROBE = r"""
<pre id="found"></pre><script>
const found = {}, errors = [];
const press = (key) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const by = (id) => document.getElementById(id);
const shownViews = () => [...document.querySelectorAll("[role=tabpanel]")]
  .filter((panel) => !panel.hidden).map((panel) => panel.id).join();
try { STEPS } catch (error) { errors.push(String(error.stack)); }
found.requests = performance.getEntriesByType("resource").length;
found.errors = errors;
by("found").textContent = JSON.stringify(found);
</script></body>"""


def visit(path, steps, folder, fragment=""):
    """Open the page, run ``steps`` in it, and return what they put into ``found``."""
    text = path.read_text(encoding="utf-8").replace("</body>", PROBE.replace("STEPS", steps))
    probed = folder / "probed.html"
    probed.write_text(text, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'user'}"]
    command = [BROWSER, *options, "--window-size=1200,900", "--dump-dom"]
    result = subprocess.run(
        [*command, probed.as_uri() + fragment], capture_output=True, text=True, timeout=60
    )
    shown = re.search(r'<pre id="found">(.*?)</pre>', result.stdout, re.DOTALL)
    assert shown and shown[1], result.stdout[-2000:] + result.stderr[-2000:]
    found = json.loads(html.unescape(shown[1]))
    assert found.pop("errors") == []
    assert found.pop("requests") == 0
    return found


HEAD_STEPS = """
found.first = shownViews();
found.tab_stops = ["left", "right"].map((id) => by(id).querySelectorAll("[tabindex='0']").length);
by("left").firstElementChild.focus();
press("ArrowDown"); press("ArrowDown");
found.query = document.activeElement.textContent;
found.status = by("head-status").textContent;
found.bars = [...by("right").children].map((key) => parseFloat(key.lastChild.style.width));
found.stroke = by("drawing").querySelectorAll("path").length;
press("End"); press("ArrowDown");
found.last = document.activeElement.textContent;
by("right").firstElementChild.focus();
found.looked_at = by("head-status").textContent;
press("Escape");
found.closed = by("head-status").textContent;
[...by("heads").children].at(-1).click();
found.no_lines = !by("no-lines").hidden;
"""
OTHER_STEPS = """
by("tab-head").focus();
press("ArrowRight");
found.second = shownViews();
found.maps = by("maps").querySelectorAll("canvas").length;
const map = by("maps").querySelectorAll("button");
map[0].focus(); press("ArrowDown"); press("ArrowRight");
found.map = document.activeElement.getAttribute("aria-label");
document.activeElement.click();
found.back = shownViews();
found.pressed = [...by("heads").children].map((head) => head.getAttribute("aria-pressed"));
press("End");
found.third = shownViews();
by("layer").value = 0; by("layer").dispatchEvent(new Event("change"));
by("query").value = 3; by("query").dispatchEvent(new Event("change"));
found.scores = [...by("neurons").querySelectorAll("tr")].slice(2).map(
  (row) => [...row.querySelectorAll("td.number")].map((cell) => cell.textContent));
found.strips = by("neurons").querySelectorAll("canvas").length;
"""


@needs_browser
def test_all_views_by_keyboard(tmp_path):
    made = picture(tokens=["a", "b", "c", "d", "e", "f"], memory=2, positions=True)
    path = write_attention_page(tmp_path / "a.html", made, title="t")
    found = visit(path, HEAD_STEPS + OTHER_STEPS, tmp_path)
    assert found["first"] == "view-head"
    assert found["tab_stops"] == [1, 1], "one stop a column, arrows inside"
    assert found["query"] == "e"
    expected = made.weights[1, :, 2].mean(0)
    np.testing.assert_allclose(found["bars"], 100 * expected, atol=0.01)
    assert "\u201ce\u201d looks at" in found["status"]
    assert found["stroke"] > 0
    assert found["last"] == "f"
    assert "\u201ca\u201d is looked at by" in found["looked_at"]
    assert "Choose a token" in found["closed"]
    assert found["no_lines"]
    assert (found["second"], found["maps"]) == ("view-model", 4)
    assert found["map"] == "layer 1, head 1"
    assert found["back"] == "view-head"
    assert found["pressed"][:2] == ["false", "true"]
    assert found["third"] == "view-neuron"
    scores = products(made, 0, 1, 3).sum(-1) * made.scales[0]
    assert [float(row[0]) for row in found["scores"]] == pytest.approx(scores, abs=0.011)
    shown = [float(row[1].removesuffix(" %")) for row in found["scores"]]
    assert shown == pytest.approx(100 * made.weights[0, 1, 3], abs=0.51)
    assert found["strips"] == 1 + 6 * 3  # the query; of each key itself and two products


@needs_browser
def test_without_queries_there_is_no_neuron_view(tmp_path):
    made = AttentionPicture(
        key_tokens=TOKENS,
        weights=picture().weights,
        segments=[0, 0, 1, 1],
        special=[True, False, False, True],
        layers=[0, 5],
    )
    path = write_attention_page(tmp_path / "a.html", made, title="t")
    steps = """
        found.neuron = by("tab-neuron").hidden;
        found.status = by("head-status").textContent;
        found.parts = by("part").length;
        by("part").value = "01"; by("part").dispatchEvent(new Event("change"));
        by("special").click();
        by("left").children[1].focus();
        found.bars = [...by("right").children].map((key) => parseFloat(key.lastChild.style.width));
        by("tab-model").focus(); press("ArrowRight");
        found.view = shownViews();
    """
    found = visit(path, steps, tmp_path, fragment="#neuron,0,1")
    assert found["neuron"]
    assert found["status"].startswith("Layer 0, mean of 1 of 2 heads")
    assert found["parts"] == 5
    expected = 100 * made.weights[0, 1, 1] * [0, 0, 1, 0]  # a text token of the second text
    np.testing.assert_allclose(found["bars"], expected, atol=0.01)
    assert found["view"] == "view-head"


def test_the_script_asks_for_nothing_and_makes_no_markup():
    for word in ("http", "fetch(", "XMLHttpRequest", "innerHTML", "eval(", "import(", "</"):
        assert word not in SCRIPT
