"""Seconds a token of generation over a long text, and against reading everything anew.

The time of a token is the CPU time of this process, so that other work on the machine counts less.
Prints the median over the first tokens after the memory is full, over the last ones, and their
ratio; then checks that greedy text with the memory is the text of the uncached computation.

    python benchmarks/language_model_generation.py [--tokens 2000] [--memory 256]
"""

import argparse
import itertools
import json
import statistics
import time

import numpy as np
import torch

from nlpapp.models.generation import generate_ids
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model

VOCABULARY = 10_000


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--memory", type=int, default=256)
    parser.add_argument("--compared", type=int, default=200, help="tokens of the uncached text")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    size = TransformerXLSizeConfig(mem_len=options.memory, initializer_range=0.06)
    model = open_language_model(None, size=size, vocab_size=VOCABULARY, fingerprint="")
    times = [time.process_time()]
    rng = np.random.default_rng(0)
    for _ in generate_ids(model, [0], max_new_tokens=options.tokens, rng=rng):
        times.append(time.process_time())
    each = [after - before for before, after in itertools.pairwise(times)]
    part = max(1, (options.tokens - options.memory) // 4)
    early = statistics.median(each[options.memory : options.memory + part])
    late = statistics.median(each[-part:])
    greedy = {"max_new_tokens": options.compared, "rng": rng, "temperature": 0}
    cached = list(generate_ids(model, [1, 2], mem_len=options.compared + 2, **greedy))
    ids = [1, 2]
    with torch.inference_mode():
        for _ in range(options.compared):
            output = model(torch.tensor([ids]), mem_len=0, logits_to_keep=1)
            ids.append(int(output.logits[0, -1].argmax()))
    figures = {
        "early_ms": 1000 * early,
        "late_ms": 1000 * late,
        "ratio": late / early,
        "compared_tokens": options.compared,
        "equal_to_uncached": cached == ids[2:],
        "different_tokens": len(set(cached)),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
