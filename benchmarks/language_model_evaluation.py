"""Evaluation with memory against a sliding window of the same attention length, on one model.

The model of characters has random weights, which take the same time as trained ones; give --model
and --text for a trained one, whose losses on the same tokens are then worth reading. Both sides are
timed in turn in one process: the window predicts one token from each forward pass of its own, the
memory as many as a segment has. The paper's speed-ups (table 9 of arXiv 1901.02860, on a GPU) are
printed beside those measured.

    python benchmarks/language_model_evaluation.py [--lengths 800 1800 3800] [--windows 4]
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch

from nlpapp.evaluation.context_windows import compare_with_windows
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.text.vocabulary import load_vocabulary

PAPER = {800: 363, 1800: 773, 3800: 1874}
VOCABULARY = 256


def main() -> None:
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
    options = parser.parse_args()
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
        ids = np.array(vocabulary.encode(Path(options.text).read_text(encoding="utf-8")))
        entries, fingerprint = len(vocabulary), vocabulary.fingerprint()
    else:
        needed = max(options.lengths) + 2 * options.segment + 1
        ids = np.random.default_rng(0).integers(0, VOCABULARY, needed)
        entries, fingerprint = VOCABULARY, ""
    model = open_language_model(
        options.model, size=size, vocab_size=entries, fingerprint=fingerprint
    )
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
        print(json.dumps(figures | {"segment_length": options.segment}), flush=True)


if __name__ == "__main__":
    main()
