"""Evaluation with memory against a sliding window of the same attention length, on one model.

The model of characters has random weights, which take the same time as trained ones; give --model
and --text for a trained one, whose losses on the same tokens are then worth reading. Both sides are
timed in turn in one process, on a GPU where there is one: the window predicts one token from each
forward pass of its own, the memory as many as a segment has. The paper's speed-ups (table 9 of
arXiv 1901.02860, on a GPU) are printed beside those measured.

    python benchmarks/language_model_evaluation.py [--lengths 800 1800 3800] [--windows 4]
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nlpapp.data.token_stream import encode_text
from nlpapp.evaluation.context_windows import compare_with_windows
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.text.language_text import LanguageText
from nlpapp.text.vocabulary import Vocabulary, load_vocabulary
from nlpapp.training.processes import process_state

PAPER = {800: 363, 1800: 773, 3800: 1874}
VOCABULARY = 256


def read_ids(text_file: str, vocabulary: Vocabulary) -> np.ndarray:
    """Return the ids of a text as evaluate-lm scores them, the end of each line included."""
    with tempfile.TemporaryDirectory() as folder:
        return np.array(encode_text(LanguageText(text_file), vocabulary, Path(folder)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON line for each attention length."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(PAPER))
    parser.add_argument("--segment", type=int, default=800, help="tokens read at once with memory")
    parser.add_argument("--windows", type=int, default=2, help="windows in each turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--model", help="folder of a trained model, with --text")
    parser.add_argument("--text", help="text to score with --model")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    size = TransformerXLSizeConfig(
        num_layers=options.layers,
        hidden_size=options.width,
        num_heads=4,
        inner_size=4 * options.width,
    )
    if options.model:
        vocabulary = load_vocabulary(options.model)
        ids = read_ids(options.text, vocabulary)
        entries, fingerprint = len(vocabulary), vocabulary.fingerprint()
    else:
        needed = max(options.lengths) + 2 * options.segment + 1
        ids = np.random.default_rng(0).integers(0, VOCABULARY, needed)
        entries, fingerprint = VOCABULARY, ""
    model = open_language_model(
        options.model, size=size, vocab_size=entries, fingerprint=fingerprint
    ).to(process_state().device)
    for length in options.lengths:
        found = compare_with_windows(
            model,
            ids,
            attention_length=length,
            segment_length=options.segment,
            num_windows=options.windows,
            num_tokens=2 * options.segment,
            turns=options.turns,
        )
        figures = dataclasses.asdict(found)
        figures |= {"paper_speed_up": PAPER.get(length), "parameters": model.num_parameters()}
        figures |= {"segment_length": options.segment, "device": model.device.type}
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
