"""What the file does as a program is tested in test_language_runtime.py, with a bundle there."""

import numpy as np
import pytest

from nlpapp.deployment import standalone_generate


class CountingModel:
    """Says that the next id is one higher, and remembers how much it has read."""

    def __init__(self):
        self.read = []

    def run(self, names, feed):
        ids = feed["input_ids"]
        self.read.append(ids.shape[1])
        logits = np.full((1, ids.shape[1], 300), -50.0)
        logits[0, np.arange(ids.shape[1]), ids[0] + 1] = 0
        return [logits, feed["memory_0"].repeat(1, 1)]


@pytest.mark.parametrize(
    ("mem_len", "prompt", "read"),
    [(4, 750, [512, 238, 1, 1]), (0, 750, [512, 512, 512]), (0, 5, [5, 6, 7])],
)
def test_ids_follow_each_other_and_unknown_words_are_never_written(mem_len, prompt, read):
    """A memory has what was read; without one the last ids are read again for each."""
    manifest = {"num_layers": 1, "hidden_size": 2, "unknown_id": 299, "mem_len": mem_len}
    rng, model = np.random.default_rng(0), CountingModel()
    ids = [0] * (prompt - 5) + list(range(5))
    found = standalone_generate.generate(manifest, model, ids, 3, 0.5, rng)
    assert list(found) == [5, 6, 7] and model.read == read


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
