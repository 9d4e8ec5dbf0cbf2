"""What is off in data: each rule on both sides of its limit, and silence where all is well."""

import copy

import pytest

from nlpapp.evaluation.data_findings import dropped_documents, expected_mask_rate, findings

SOUND = {
    "options": {
        "objective": "nsp",
        "max_seq_length": 100,
        "dupe_factor": 5,
        "masked_lm_prob": 0.15,
        "max_predictions_per_seq": 20,
        "masking": "static",
    },
    "counts": {
        "documents_read": 1000,
        "sentences_read": 10_300,
        "documents": 970,
        "sentences": 10_000,
        "tokens": 200_000,
        "words": 150_000,
        "unknown_tokens": 1_999,
        "dropped_documents_short": 10,
        "dropped_documents_duplicate": 15,
        "dropped_documents_without_tokens": 5,
        "duplicate_documents": 15,
        "instances": 10_000,
        "instance_tokens": 1_000_000,
        "truncated_tokens": 200_000,
        "random_next": 5_099,
        "masked_tokens": 150_000,
        "masked_as_mask": 120_000,
        "masked_as_random": 15_000,
        "masked_kept": 15_000,
    },
    "lengths": [0] * 100 + [10_000],
}


def manifest(*, options=None, lengths=None, **counts):
    changed = copy.deepcopy(SOUND)
    changed["counts"].update(counts)
    changed["options"].update(options or {})
    changed["lengths"] = lengths or changed["lengths"]
    return changed


def test_sound_data_has_no_findings():
    assert findings(SOUND) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"documents_read": 1001}, "do not add up: 1,001 read, 970 used and 30 dropped"),
        ({"unknown_tokens": 2_020}, "1.01% of the tokens are [UNK]"),
        ({"random_next": 5_101}, '51.01% of the instances have the label "B is random"'),
        ({"random_next": 4_899}, '48.99% of the instances have the label "B is random"'),
        ({"truncated_tokens": 200_001}, "20.00% of those kept"),
        ({"duplicate_documents": 51}, "5.10% of the documents are equal"),
        ({"sentences_cut_up": 501}, "5.01% of the sentences are too long"),
        ({"words": 79_000}, "A word takes 2.53 tokens"),
        ({"options": {"max_seq_length": 167}}, "100.0 tokens on average, 60% of max_seq_length"),
        (
            {"documents": 770, "dropped_documents_short": 210},
            "23.00% of the documents were dropped",
        ),
        ({"sentences": 1939}, "A document has 2.00 sentences"),
        ({"options": {"dupe_factor": 1}}, "every document is used once"),
        ({"masked_as_mask": 121_000}, "80.67% of the tokens to predict became [MASK], not 80%"),
        ({"masked_kept": 14_000}, "9.33% of the tokens to predict stayed as they are, not 10%"),
    ],
)
def test_each_rule_has_its_finding_and_advice(changes, what):
    (finding,) = findings(manifest(**changes))
    assert what in finding.what
    assert finding.advice


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown_tokens": 2_000},
        {"random_next": 4_900},
        {"duplicate_documents": 50},
        {"sentences_cut_up": 500},
        {"words": 80_000},
        {"options": {"max_seq_length": 166}},
        {"documents": 800, "dropped_documents_short": 180},
        {"sentences": 1940},
        {"masked_as_mask": 120_700},
        {"options": {"dupe_factor": 1, "masking": "dynamic"}, "masked_tokens": 0},
        {"options": {"objective": "none"}, "random_next": 0, "sentences": 970},
    ],
)
def test_at_the_limit_there_is_no_finding(changes):
    assert findings(manifest(**changes)) == []


def test_swapped_order_is_looked_at_with_sentence_order():
    (finding,) = findings(manifest(options={"objective": "sop"}, random_next=0, swapped_order=6000))
    assert 'label "swapped"' in finding.what


def test_chance_is_named_where_it_explains_a_share():
    few = {
        name: 0 if "documents" in name else number // 100
        for name, number in SOUND["counts"].items()
    } | {"documents": 15, "documents_read": 15}
    (finding,) = findings(manifest(**few | {"random_next": 58}))
    assert finding.advice == "With 100 instances chance alone explains this."
    (finding,) = findings(manifest(**few | {"random_next": 61}))
    assert "chance" not in finding.advice


def test_few_documents_matter_for_random_sentences_only():
    few = {"documents": 9, "documents_read": 39, "duplicate_documents": 0}
    few |= {"dropped_documents_duplicate": 0, "dropped_documents_short": 25}

    def texts(objective, **counts):
        return [
            finding.what
            for finding in findings(
                manifest(options={"objective": objective}, swapped_order=5000, **few | counts)
            )
            if "dropped" not in finding.what
        ]

    assert texts("nsp") == ["There are only 9 documents."]
    assert texts("sop") == []
    assert texts("none", documents=1, documents_read=31) == ["The corpus is one document."]


def test_masks_too_few_name_the_cap_where_it_is_the_cap():
    capped = {"masked_tokens": 100_000, "masked_as_mask": 80_000}
    capped |= {"masked_as_random": 10_000, "masked_kept": 10_000}
    (finding,) = findings(manifest(options={"max_predictions_per_seq": 10}, **capped))
    assert finding.what == "Only 10.00% of the tokens are to be predicted, not 15.00%."
    assert "max_predictions_per_seq 10" in finding.advice
    (finding,) = findings(manifest(**capped))
    assert "max_predictions_per_seq" not in finding.advice


def test_short_instances_have_too_many_masks():
    short = {"instances": 200_000, "random_next": 100_000, "masked_tokens": 200_000}
    short |= {"masked_as_mask": 160_000, "masked_as_random": 20_000, "masked_kept": 20_000}
    found = findings(manifest(options={"max_seq_length": 8}, lengths=[0] * 5 + [200_000], **short))
    assert [finding.what for finding in found] == [
        "20.00% of the tokens are to be predicted, not 15.00%."
    ]


def test_duplicates_that_stay_are_to_be_dropped():
    (kept,) = findings(manifest(duplicate_documents=60))
    assert "have them dropped" in kept.advice
    dropped = {"dropped_documents_duplicate": 60, "documents": 925}
    (gone,) = findings(manifest(duplicate_documents=60, **dropped))
    assert gone.advice.startswith("They were dropped")


@pytest.mark.parametrize("empty", [{}, {"counts": {"instances": 0}}])
def test_no_instance_is_the_one_finding(empty):
    assert [finding.what for finding in findings(empty)] == ["The data holds no instance."]


def test_counts_that_are_missing_are_zero():
    (finding,) = findings({"counts": {"instances": 3, "documents": 2, "documents_read": 1}})
    assert "do not add up: 1 read, 2 used and 0 dropped" in finding.what


def test_expected_rate_is_the_rule_of_every_length():
    lengths = [0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 7] + [0] * 189 + [3]
    options = {"masked_lm_prob": 0.15, "max_predictions_per_seq": 20}
    wanted = tokens = 0
    for length, number in enumerate(lengths):
        for _ in range(number):
            wanted += min(20, max(1, round(length * 0.15)))
            tokens += length
    assert expected_mask_rate({"options": options, "lengths": lengths}) == wanted / tokens
    assert expected_mask_rate({}) == 0


def test_reasons_unknown_so_far_are_counted_too():
    counts = {"dropped_documents_short": 3, "dropped_documents_too_odd": 4, "dropped_sentences": 9}
    assert dropped_documents(counts) == {
        "too short for the options": 3,
        "equal to an earlier one": 0,
        "without a token": 0,
        "too odd": 4,
    }
