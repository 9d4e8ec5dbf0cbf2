"""What the file does as a program is tested in test_language_runtime.py, with a bundle there."""

import numpy as np
import pytest

from nlpapp.deployment import standalone_generate


class CountingModel:
    """Says that the next id is one higher, and remembers how much it has read."""

    def run(self, names, feed):
        ids = feed["input_ids"]
        logits = np.full((1, ids.shape[1], 300), -50.0)
        logits[0, np.arange(ids.shape[1]), ids[0] + 1] = 0
        return [logits, feed["memory_0"].repeat(1, 1)]


def test_ids_follow_each_other_and_unknown_words_are_never_written():
    manifest = {"num_layers": 1, "hidden_size": 2, "unknown_id": 299, "end_id": 0}
    rng = np.random.default_rng(0)
    prompt = [0] * 600 + list(range(150))  # more than one segment
    found = standalone_generate.generate(manifest, CountingModel(), prompt, 3, 0.5, rng)
    assert list(found) == [150, 151, 152]


def test_words_and_characters():
    words = {"kind": "words", "symbols": ["<eos>", "<unk>", "a", "b"]}
    manifest = {"end_id": 0, "unknown_id": 1}
    assert standalone_generate.to_ids(words, manifest, "a b z") == [0, 2, 3, 1]
    assert standalone_generate.to_text(words, [2, 0, 3], 0) == "a\nb"
    assert standalone_generate.to_ids(words, manifest, "a\nb\n") == [0, 2, 0, 3, 0]
    letters = {"kind": "characters", "symbols": ["<eos>", "a", "b", " "]}
    assert standalone_generate.to_text(letters, [1, 3, 2], 0) == "a b"
    with pytest.raises(SystemExit, match="'z' is not in the vocabulary"):
        standalone_generate.to_ids(letters, {"end_id": 0, "unknown_id": None}, "az")
