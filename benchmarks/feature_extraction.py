"""Sentences a second, file sizes and memory of feature extraction, against the plain way.

The plain way is what a first script does and what the original extractor did: batches of 32 in the
order of the file, each text padded to the longest allowed length. Both give the mean of the last
layer, and take turns in one process with the same weights and texts. The sizes are of files with
the same texts: JSON lines as the original wrote them (a vector for each token and layer, six
decimal places), and what nlpapp writes in float16 and in int8. The memory is the largest resident
set of the command on a file, and on one with the same lines ten times.

    python benchmarks/feature_extraction.py [--model FOLDER] [--file TEXTS] [--threads 1]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice, product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nlpapp.data.feature_files import FeatureChunk, FeatureLayout, FeatureWriter, FileFormat
from nlpapp.data.feature_rows import RowEncoder, split_pair
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.features import FeatureExtractor, load_encoder, random_encoder
from nlpapp.text.wordpiece import load_tokenizer

ROWS_PER_BATCH, TOKENS_PER_BATCH = 32, 1024
ORIGINAL_LAYERS = (-1, -2, -3, -4)
DTYPES: tuple[Literal["float16", "int8"], ...] = ("float16", "int8")
FORMATS: tuple[FileFormat, ...] = ("npy", "safetensors", "parquet")


@torch.inference_mode()
def plain(model: Any, tokenizer: Any, texts: list[str], max_seq_length: int) -> np.ndarray:
    """Return the mean of the last layer of each text, every text padded to the longest allowed."""
    parts = []
    for start in range(0, len(texts), ROWS_PER_BATCH):
        batch = tokenizer(
            texts[start : start + ROWS_PER_BATCH],
            padding="max_length",
            truncation=True,
            max_length=max_seq_length,
            return_tensors="pt",
        )
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        parts.append((hidden * mask).sum(1) / mask.sum(1))
    return torch.cat(parts).numpy()


def grouped(extractor: FeatureExtractor, encoder: RowEncoder, texts: list[str]) -> np.ndarray:
    """Return the same as nlpapp computes it."""
    encoded = encoder([split_pair(text) for text in texts])
    return extractor.rows(encoded.batches(TOKENS_PER_BATCH), encoded.lengths)[:, 0]


def speed(model: Any, tokenizer: Any, texts: list[str], options: Any) -> dict[str, Any]:
    """Return medians over turns in rotation, after a turn to warm up."""
    encoder = RowEncoder(tokenizer, max_seq_length=options.max_seq_length)
    extractor = FeatureExtractor(model, layers=[-1])
    ways = {
        "plain": lambda: plain(model, tokenizer, texts, options.max_seq_length),
        "nlpapp": lambda: grouped(extractor, encoder, texts),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    difference = 0.0
    for turn in range(options.turns + 1):
        found = {}
        for name, way in ways.items() if turn % 2 else reversed(ways.items()):
            start = time.perf_counter()
            found[name] = way()
            if turn:
                rates[name].append(len(texts) / (time.perf_counter() - start))
        difference = max(difference, float(np.abs(found["plain"] - found["nlpapp"]).max()))
    ratios = [mine / other for other, mine in zip(*rates.values(), strict=True)]
    lengths = encoder([split_pair(text) for text in texts]).lengths
    medians = {f"{name}_sentences_a_second": statistics.median(r) for name, r in rates.items()}
    return {
        "sentences": len(texts),
        "mean_tokens": round(float(lengths.mean()), 1),
        **{name: round(value, 1) for name, value in medians.items()},
        "speed_ratio": round(statistics.median(ratios), 2),
        "largest_difference": difference,
    }


def original_bytes(chunk: FeatureChunk) -> int:
    """Return the bytes of the original's JSON, spelled out here without nlpapp's writer."""
    assert chunk.tokens is not None
    total, position = 0, 0
    for number, tokens in enumerate(chunk.tokens):
        features = []
        for token in tokens:
            layers = [
                {"index": layer, "values": [round(float(x), 6) for x in vector]}
                for layer, vector in zip(ORIGINAL_LAYERS, chunk.values[position], strict=True)
            ]
            features.append({"token": token, "layers": layers})
            position += 1
        total += len(json.dumps({"linex_index": number, "features": features})) + 1
    return total


def sizes(model: Any, tokenizer: Any, texts: list[str], max_seq_length: int) -> dict[str, Any]:
    """Return the bytes of the original's file, and those of nlpapp's as a share of it."""
    encoder = RowEncoder(tokenizer, max_seq_length=max_seq_length)
    encoded = encoder([split_pair(text) for text in texts])
    tokens = [encoder.tokens(row) for row in encoded.input_ids]
    shares: dict[str, Any] = {}
    original = 0
    for pooling in ("none", "mean"):
        for layers in (ORIGINAL_LAYERS, (-1,)):
            extractor = FeatureExtractor(model, layers=layers, pooling=pooling)
            values = extractor.rows(encoded.batches(TOKENS_PER_BATCH), encoded.lengths)
            per_token = pooling == "none"
            ids = encoded.input_ids if per_token else None
            chunk = FeatureChunk(values, ids, tokens if per_token else None)
            original = original or original_bytes(chunk)
            kind = "per_token" if per_token else "pooled"
            for dtype, form in product(DTYPES, FORMATS):
                layout = FeatureLayout(
                    layers=layers,
                    hidden_size=extractor.hidden_size,
                    dtype=dtype,
                    per_token=per_token,
                )
                with tempfile.TemporaryDirectory() as folder:
                    writer = FeatureWriter(Path(folder), form, layout, {})
                    writer.append(chunk, {})
                    size = sum(path.stat().st_size for path in writer.finish())
                name = f"{kind}_{len(layers)}_layers_{form}" + "_int8" * (dtype == "int8")
                shares[name] = round(size / original, 4)
    return {"original_json_bytes": original, "share_of_it": shares}


def peak_megabytes(model: str | None, tokenizer: str, texts: list[str], threads: int) -> float:
    """Return the largest resident set of the command on a file of ``texts``."""
    # Not getrusage: its maximum begins with that of the process that started this one.
    code = (
        "import sys; from nlpapp.cli import main; code = main(sys.argv[1:]);"
        "lines = dict(line.split(':', 1) for line in open('/proc/self/status'));"
        "print(lines['VmHWM'].split()[0]); sys.exit(code)"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.txt"
        path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
        arguments = ["extract-features", f"--file={path}", f"--output_dir={folder}/run"]
        arguments += [f"--model={model}"] if model else [f"--tokenizer={tokenizer}"]
        small = ["--size.num_layers=1", "--size.hidden_size=128", "--size.num_heads=2"]
        arguments += ["--chunk_rows=500", *([] if model else small)]
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
            check=True,
        )
    return round(int(result.stdout.split()[-1]) / 1024, 1)


def main() -> None:
    """Print one JSON line for speed, one for sizes, and one for memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="encoder folder; absent: random weights of MiniLM's size")
    parser.add_argument("--tokenizer", default="data/sample/tokenizer")
    parser.add_argument("--file", default="data/sample/corpus.txt")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max_seq_length", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with open(options.file, encoding="utf-8") as file:
        lines = [line.strip() for line in islice(file, 20 * options.texts) if line.strip()]
    texts = lines[: options.texts]
    tokenizer = load_tokenizer(options.model or options.tokenizer)
    if options.model:
        model = load_encoder(options.model)
    else:
        torch.manual_seed(0)
        size = BertSizeConfig(num_layers=6, hidden_size=384, num_heads=12)
        model = random_encoder(bert_config(size, vocab_size=len(tokenizer)))
    print(json.dumps(speed(model, tokenizer, texts, options)), flush=True)
    print(json.dumps(sizes(model, tokenizer, texts[:64], options.max_seq_length)), flush=True)
    model_sentences = 4 * options.texts
    repeated = (lines * (1 + 40 * options.texts // len(lines)))[: 10 * model_sentences]
    peaks = {
        str(len(part)): peak_megabytes(options.model, options.tokenizer, part, options.threads)
        for part in (repeated[:model_sentences], repeated)
    }
    print(json.dumps({"peak_megabytes_by_sentences": peaks}), flush=True)


if __name__ == "__main__":
    main()
