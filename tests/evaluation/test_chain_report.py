"""The claims of a chain hold and fail where they should, and the page shows them."""

import numpy as np
import pytest

from nlpapp.evaluation.chain_report import Chain, claims, format_claims, write_chain_report

STAGES = {
    "bert": {
        "initial_masked_lm_loss": 8.0,
        "masked_lm_loss": 7.2,
        "next_sentence_accuracy": 0.6,
    },
    "teacher": {"test_accuracy": 0.5},
    "teacher-from-scratch": {"test_accuracy": 0.4},
    "student": {"test_accuracy": 0.45},
    "student-hard-labels": {"test_accuracy": 0.45},
    "language-model": {"test_perplexity": 99.0, "test_perplexity_without_memory": 100.0},
    "benchmark": {"teacher-bundle_fp32_p50_ms": 3.0, "student-bundle_fp32_p50_ms": 1.0},
}
YARDSTICKS = {"majority": 0.25, "tfidf": 0.5}


def test_every_claim_holds_at_its_bar():
    found = claims(STAGES, YARDSTICKS)
    assert [claim.holds for claim in found] == [True] * 9


@pytest.mark.parametrize(
    "stage, metric, value, failing",
    [
        ("bert", "masked_lm_loss", 7.21, [0]),
        ("bert", "next_sentence_accuracy", 0.599, [1]),
        ("teacher", "test_accuracy", 0.49, [2, 4]),
        ("teacher-from-scratch", "test_accuracy", 0.5, [3]),
        ("student", "test_accuracy", 0.449, [5, 6]),
        ("student-hard-labels", "test_accuracy", 0.451, [6]),
        ("benchmark", "student-bundle_fp32_p50_ms", 1.01, [7]),
        ("language-model", "test_perplexity", 100.0, [8]),
    ],
)
def test_a_claim_fails_just_beyond_its_bar(stage, metric, value, failing):
    stages = STAGES | {stage: STAGES[stage] | {metric: value}}
    found = claims(stages, YARDSTICKS)
    assert [index for index, claim in enumerate(found) if not claim.holds] == failing
    assert format_claims(found).count(" NO") == len(failing)


def test_the_page_is_whole(tmp_path):
    row = {
        "model": "m",
        "kind": "fp32",
        "parameters": 10,
        "bytes": 40,
        "p50_ms": 1.5,
        "accuracy": 0.5,
    }
    chain = Chain(
        folder=tmp_path,
        claims=claims(STAGES, YARDSTICKS),
        stages=[("bert", "pretrain a small BERT", 12.5)],
        models=[row, row | {"kind": "int8", "p50_ms": 1.0}],
        labels=["files", "numbers"],
        confusions={"teacher": (np.array([0, 1, 1]), np.array([0, 1, 0]))},
        example='say "hello"',
    )
    page = write_chain_report(chain).read_text(encoding="utf-8")
    for text in ("next_sentence_accuracy", "student-bundle/bundle", "say &#39;hello&#39;", "int8"):
        assert text in page, text
    assert page.count("data:image/png;base64,") == 2
    assert (tmp_path / "plots" / "confusion-teacher.png").is_file()
