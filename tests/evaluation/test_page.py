"""Pages: sound HTML, nothing loaded from outside, every text escaped, every image inside."""

import base64
import re
from html.parser import HTMLParser

from nlpapp.evaluation.page import Section, write_report
from nlpapp.evaluation.plots import plot_bars

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects tags, attributes and table cells, and fails on a tag that is not closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open_tags, self.tags, self.attributes, self.rows, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open_tags, f"not closed: {self.open_tags}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open_tags and self.open_tags[-1] == tag, (
            f"</{tag}> closes {self.open_tags[-1:]}"
        )
        self.open_tags.pop()

    def handle_data(self, data):
        self.text.append(data)
        if self.open_tags and self.open_tags[-1] in ("td", "th"):
            self.rows[-1].append(data)


def assert_self_contained(text):
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    for tag, attributes in page.attributes:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:image/png;base64,")), (
                f"<{tag} {name}={target[:50]}>"
            )
        assert not any(name.startswith("on") for name in attributes)
    style = " ".join(re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL))
    assert style
    assert "@import" not in style
    assert "url(" not in style
    return page


def test_page_is_sound_and_self_contained(tmp_path):
    image = plot_bars({"a": 1.0}, tmp_path / "bars.png", quantity="accuracy")
    path = write_report(
        tmp_path / "deep" / "report.html",
        title="A report",
        subtitle="of one run",
        sections=[
            Section("Text", "First.\n\nSecond with `code`."),
            Section("Table", table=[{"a": 1}]),
            Section("Image", image=image),
            Section("Code", code="nlpapp doctor"),
            Section("Figures", figures={"accuracy": 0.5}),
        ],
    )
    text = path.read_text(encoding="utf-8")
    page = assert_self_contained(text)
    assert page.tags.count("h2") == 5
    assert "<p>Second with <code>code</code>.</p>" in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    sources = [values["src"] for tag, values in page.attributes if tag == "img"]
    assert base64.b64decode(sources[0].partition("base64,")[2]) == image.read_bytes()
    assert not list(path.parent.glob("*.partial"))


def test_everything_is_escaped(tmp_path):
    evil = "<script>alert('x')</script> & \"quotes\""
    path = write_report(
        tmp_path / "report.html",
        title=evil,
        subtitle=evil,
        sections=[
            Section(evil, evil, table=[{evil: evil}], code=evil, figures={evil: evil}),
            Section("code in text", "`<b>`"),
        ],
    )
    text = path.read_text(encoding="utf-8")
    page = assert_self_contained(text)
    assert "b" not in page.tags
    assert "<code>&lt;b&gt;</code>" in text
    assert page.text.count(evil) == 10  # title twice, subtitle, h2, p, th, td, figure twice, pre
    assert "<script" not in text


def test_table_columns_alignment_and_numbers(tmp_path):
    table = [
        {"model": "teacher", "latency_ms": 24.125, "parameters": 4400000},
        {"model": "student", "latency_ms": None, "parameters": 12, "exported": True},
    ]
    path = write_report(tmp_path / "r.html", title="t", sections=[Section("T", table=table)])
    page = Page(path.read_text(encoding="utf-8"))
    assert page.rows == [
        ["model", "latency (ms)", "parameters", "exported"],
        ["teacher", "24.12", "4,400,000", "\N{EN DASH}"],
        ["student", "\N{EN DASH}", "12", "yes"],
    ]
    classes = [values.get("class") for tag, values in page.attributes if tag == "th"]
    assert classes == [None, "number", "number", None]
