"""Speed of transfer sets: sentences drawn a second a core, and a teacher's logits.

Augmentation runs in one process, with and without a tagger, and its texts are compared with those
of four. The teacher's logits come from `cached_logits` (batches of equal length) and from batches
in the order of the rows that are all padded to --max_seq_length, in turn; then the second run.
CPU seconds are given beside the clock because other work on the machine disturbs them less.

    python benchmarks/transfer_set.py --data_dir <glue> --teacher <folder> [--tagger hanta]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from nlpapp.data.augmentation import AugmentationConfig, AugmentationCounts, Sides, augment
from nlpapp.data.classification import ClassificationCollator, EncodedExamples, Examples
from nlpapp.data.glue_tasks import get_task, read_task
from nlpapp.data.sampling import ExampleSteps
from nlpapp.objectives.classification import forward_logits
from nlpapp.text.wordpiece import load_tokenizer
from nlpapp.training.evaluate import predict_rows
from nlpapp.training.teacher_logits import cached_logits


def main() -> None:
    """Print one JSON line for the augmentation, and one for the logits."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data_dir", required=True, help="folder that holds GLUE")
    parser.add_argument("--task", default="sst2")
    parser.add_argument("--rows", type=int, default=20_000, help="rows that are augmented")
    parser.add_argument("--tagger", help="adds a run with this tagger")
    parser.add_argument("--teacher", type=Path, help="folder of a classifier, for the logits")
    parser.add_argument("--teacher_rows", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--max_seq_length", type=int, default=128)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    examples = read_task(get_task(options.task), options.data_dir, "train")
    print(json.dumps(augmentation_speed(examples, options)), flush=True)
    if options.teacher is not None:
        print(json.dumps(logits_speed(examples, options)), flush=True)


def augmentation_speed(examples: Examples, options: argparse.Namespace) -> dict[str, Any]:
    """Return the sentences drawn a second, and whether four workers draw the same."""
    result: dict[str, Any] = {}
    for tagger in dict.fromkeys([None, options.tagger]):
        config = AugmentationConfig(tagger=tagger)
        cpu = time.process_time()
        texts, counts = draw(examples, options.rows, config, workers=1)
        seconds = time.process_time() - cpu
        result[tagger or "no tagger"] = {
            "drawn_per_cpu_second": round(counts.drawn / seconds),
            **{name: round(share, 5) for name, share in counts.shares().items()},
            "equal_with_4_workers": draw(examples, options.rows, config, workers=4)[0] == texts,
        }
    return result


def draw(
    examples: Examples, rows: int, config: AugmentationConfig, *, workers: int
) -> tuple[list[Sides], AugmentationCounts]:
    """Return the new texts of the first ``rows`` examples."""
    texts_b = examples.texts_b[:rows] if examples.texts_b is not None else None
    texts: list[Sides] = []
    counts = AugmentationCounts()
    run = {"seed": 1, "mask_token": "[MASK]", "workers": workers}
    for part in augment(examples.texts_a[:rows], texts_b, config, **run):
        texts += part.texts
        counts += part.counts
    return texts, counts


def logits_speed(examples: Examples, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rows a second of both ways, their ratio, and the seconds of a second run."""
    count = options.teacher_rows
    chosen = np.random.default_rng(0).permutation(len(examples))[:count]
    pair = examples.texts_b
    part = Examples(
        texts_a=[examples.texts_a[row] for row in chosen],
        texts_b=[pair[row] for row in chosen] if pair is not None else None,
        source=examples.source,
    )
    tokenizer = load_tokenizer(options.teacher)
    model = AutoModelForSequenceClassification.from_pretrained(options.teacher).eval()
    encoded = EncodedExamples(part, tokenizer, max_seq_length=options.max_seq_length)
    collate = ClassificationCollator(encoded, tokenizer.pad_token_id)

    def padded(indices: np.ndarray, epoch: int) -> dict[str, torch.Tensor]:
        fill = {"input_ids": tokenizer.pad_token_id}
        return {
            key: torch.nn.functional.pad(
                value, (0, options.max_seq_length - value.shape[1]), value=fill.get(key, 0)
            )
            for key, value in collate(indices, epoch).items()
        }

    def ours(folder: Path) -> np.ndarray:
        return cached_logits(
            folder / "logits",
            model=model,
            forward=forward_logits,
            collate=collate,
            token_ids=encoded.input_ids,
            lengths=encoded.lengths,
            batch_size=options.batch_size,
        )

    plain = ExampleSteps(len(part), padded, batch_size=options.batch_size, shuffle=False)
    ratios, speeds, again, difference = [], [], [], 0.0
    for _ in range(options.turns):
        with tempfile.TemporaryDirectory() as folder:
            mine, seconds = timed(lambda at=folder: np.array(ours(Path(at))))
            again.append(timed(lambda at=folder: ours(Path(at)))[1])
        expected, slow = timed(lambda: predict_rows(model, forward_logits, plain))
        difference = max(difference, float(np.abs(mine - expected).max()))
        ratios.append(slow / seconds)
        speeds.append(count / seconds)
    return {
        "rows_per_cpu_second": round(statistics.median(speeds), 1),
        "over_padded": round(statistics.median(ratios), 2),
        "second_run_cpu_seconds": round(statistics.median(again), 3),
        "largest_difference": difference,
    }


def timed(work: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    """Return the result of ``work`` and its CPU seconds."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


if __name__ == "__main__":
    main()
