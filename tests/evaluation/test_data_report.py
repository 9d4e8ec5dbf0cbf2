"""The page of a data folder: figures worked out by hand, a bounded size, foreign text escaped."""

import copy

import numpy as np
import pytest
from matplotlib.figure import Figure

from nlpapp.evaluation.data_report import (
    InstanceView,
    document_sum,
    plot_lengths,
    write_data_report,
)
from tests.evaluation.test_data_findings import SOUND
from tests.evaluation.test_page import assert_self_contained

SOURCES = [
    {"file": "a.txt", "bytes": 2_500_000, "format": "lines", "compression": "none", "documents": 7},
    {"file": "b.gz", "bytes": 500_000, "format": "text", "compression": "gzip", "documents": 993},
]
VIEW = InstanceView(
    ["[CLS]", "<b>x</b>", "[MASK]", "[SEP]", "y", "[SEP]"], [2], ["home"], "B follows A", 6
)
PADDING = {"at max_seq_length": 0.25, "grouped by length": 0.015}


def manifest(**counts):
    changed = copy.deepcopy(SOUND)
    changed |= {"sources": copy.deepcopy(SOURCES), "tokenizer_fingerprint": "0123456789abcdef" * 4}
    changed["shards"] = [{}, {}]
    changed["counts"].update({"bytes": 1_900_000, "text_bytes_read": 4_200_000} | counts)
    return changed


def page_of(tmp_path, content, examples=(VIEW,), **options):
    path = write_data_report(tmp_path, content, examples, padding=PADDING, **options)
    assert path == tmp_path / "report.html"
    page = assert_self_contained(path.read_text(encoding="utf-8"))
    return page, "".join(page.text)


def test_the_page_of_sound_data_has_every_figure(tmp_path):
    page, seen = page_of(tmp_path, manifest(), example_batch_sizes=(32, 3000))
    assert "Warnings" not in seen
    assert "Nothing is off" in seen
    assert (
        "Documents in = used + dropped: 1,000 = 970 + 30 (10 too short for the options, 15 equal "
        "to an earlier one, 5 without a token). It adds up: none is lost."
    ) in seen
    dash = "\N{EN DASH}"
    for row in (
        ["documents", "1,000", "970"],
        ["sentences", "10,300", "10,000"],
        ["text (MB)", "4.200", dash],
        ["tokens per word", dash, "1.333"],
        ["[UNK] tokens", dash, "1,999"],
        ["a.txt", "lines", "none", "2.500", "7"],
        ["b.gz", "text", "gzip", "0.5000", "993"],
        ["documents dropped: too short for the options", "10", "1", "documents read"],
        ["duplicates found, kept or not", "15", "1.500", "documents read"],
        ["tokens cut off at max_seq_length", "200,000", "20", "kept"],
        ["at max_seq_length", "25"],
        ["grouped by length", "1.500"],
        ["tokens to predict", "15", "15", dash],
        ["of these, became [MASK]", "80", "80", "0.2066"],
        ["of these, became a random token", "10", "10", "0.1549"],
        ["of these, stayed as they are", "10", "10", "0.1549"],
        ["instances with the label \u201cB is random\u201d", "50.99", "50", "1"],
        ["32", "313", "3,200", "1,000,000", "319.5"],
        ["3,000", "4", "300,000", "1,000,000", "25,000"],
    ):
        assert row in page.rows, row
    assert "1.900 MB in 2 shards, 1.900 bytes a token" in seen
    assert "nine of ten 100 to 100; 100.0% are full" in seen
    assert "2 sources, 3 MB on disk." in seen
    assert "tokenizer 0123456789abcdef" in seen
    assert "max_predictions_per_seq: 20" in seen
    assert "A  [CLS] <b>x</b> [MASK: home] [SEP]\nB  y [SEP]\n= B follows A" in seen
    assert page.tags.count("img") == 1
    assert (tmp_path / "plots" / "lengths.png").read_bytes().startswith(b"\x89PNG")


def test_warnings_stand_on_top_with_advice(tmp_path):
    page, seen = page_of(tmp_path, manifest(unknown_tokens=20_000, documents_read=1001))
    assert seen.index("Warnings") < seen.index("At a glance")
    assert page.rows[0] == ["what is off", "what to do"]
    assert page.rows[1][0].startswith("The documents do not add up: 1,001 read")
    assert page.rows[2][0].startswith("10.00% of the tokens are [UNK]")
    assert "train-tokenizer" in page.rows[2][1]
    assert "It does not add up: the right side is 1,000." in seen
    assert "Nothing is off" not in seen


def test_hundreds_of_thousands_of_sources_make_no_long_page(tmp_path):
    content = manifest()
    content["sources"] = [
        {"file": f"file-{number}", "bytes": 1000, "format": "text", "documents": 2}
        for number in range(200_000)
    ]
    page, seen = page_of(tmp_path, content)
    files = [row[0] for row in page.rows if row[0].startswith("file-")]
    assert files == [f"file-{number}" for number in range(20)]
    dash = "\N{EN DASH}"
    assert ["and 199,980 more", dash, dash, "200.0", "399,960"] in page.rows
    assert "200,000 sources, 200 MB on disk." in seen


def test_exactly_twenty_sources_have_no_more(tmp_path):
    content = manifest()
    content["sources"] = [{"file": f"file-{number}", "bytes": 1} for number in range(20)]
    _, seen = page_of(tmp_path, content)
    assert "file-19" in seen
    assert " more" not in seen


def test_dynamic_masks_and_no_sentence_task(tmp_path):
    content = manifest(masked_tokens=0, random_next=0)
    content["options"] |= {"masking": "dynamic", "objective": "none"}
    page, seen = page_of(tmp_path, content)
    assert "drawn during training" in seen
    assert not [row for row in page.rows if row[0].startswith(("tokens to predict", "instances w"))]
    content["options"] |= {"objective": "sop"}
    content["counts"] |= {"swapped_order": 5000}
    page, _ = page_of(tmp_path, content)
    assert ["instances with the label \u201cswapped\u201d", "50", "50", "1"] in page.rows


def test_five_examples_at_most(tmp_path):
    views = [InstanceView([f"token{number}"], [], [], None, 1) for number in range(7)]
    _, seen = page_of(tmp_path, manifest(), views)
    assert "token4" in seen
    assert "token5" not in seen
    page, _ = page_of(tmp_path, manifest(), ())
    assert "Examples" not in page.text


@pytest.mark.parametrize("content", [{}, {"counts": {}, "options": {}, "lengths": [0, 0]}])
def test_data_without_instances_still_has_its_page(tmp_path, content):
    _, seen = page_of(tmp_path, content)
    assert "The data holds no instance." in seen


def test_a_foreign_file_name_is_only_text(tmp_path):
    content = manifest()
    content["sources"][0]["file"] = "<script>alert(1)</script>`a`"
    page, seen = page_of(tmp_path, content)
    assert "<script>alert(1)</script>`a`" in seen
    assert "script" not in page.tags


def test_the_sum_names_a_reason_that_is_new():
    counts = {"documents_read": 3, "documents": 1, "dropped_documents_odd": 2}
    assert "3 = 1 + 2 (" in document_sum(counts)
    assert "2 odd). It adds up" in document_sum(counts)


@pytest.mark.parametrize("longest", [8, 127, 128, 512, 1000])
def test_bars_hold_every_instance(tmp_path, longest, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    lengths = np.random.default_rng(0).integers(1, 9, size=longest + 1)
    plot_lengths(lengths, longest, tmp_path / "lengths.png")
    (axes,) = drawn[0].axes
    bars = axes.patches
    assert len(bars) <= 128
    assert sum(bar.get_height() for bar in bars) == pytest.approx(1)
    assert bars[0].get_height() == pytest.approx(
        lengths[: -(-(longest + 1) // 128)].sum() / lengths.sum()
    )
    assert axes.get_xlim()[1] > longest
    assert axes.get_yscale() == "linear"


def test_a_single_high_bar_hides_no_other(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    lengths = np.ones(101, dtype=np.int64)
    lengths[100] = 5000
    plot_lengths(lengths, 100, tmp_path / "lengths.png")
    (axes,) = drawn[0].axes
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "share of the instances, log scale"
