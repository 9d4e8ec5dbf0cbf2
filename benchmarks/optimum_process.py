"""optimum-onnx's own export and pipeline of a classifier, answering as deployment.timed_process.

Run by benchmarks/deployment.py with the Python of an environment that has optimum-onnx; nothing of
nlpapp is loaded but the few lines that read questions.

    <its python> benchmarks/optimum_process.py '{"source": "a/model", "folder": "where/to/export"}'
    <its python> benchmarks/optimum_process.py '{"folder": "an/export", "threads": 1}'
"""

import json
import os
import sys
import time
from pathlib import Path


def export(source: str, folder: str) -> None:
    """Write optimum's export of the classifier in ``source``."""
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    ORTModelForSequenceClassification.from_pretrained(source, export=True).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


def main() -> None:
    """Load, then answer questions until there are no more."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    specification = json.loads(sys.argv[1])
    folder = specification["folder"]
    if "source" in specification:
        if not (Path(folder) / "model.onnx").is_file():
            export(specification["source"], folder)
        return
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    from nlpapp.deployment.timed_process import answer_questions

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = specification["threads"]
    start = time.perf_counter()
    model = ORTModelForSequenceClassification.from_pretrained(folder, session_options=options)
    classify = pipeline(
        "text-classification",
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(folder),
        top_k=None,
    )
    limits = {"truncation": True, "max_length": specification["max_seq_length"]}
    facts = {"load_ms": (time.perf_counter() - start) * 1000}

    def answer(batch):
        rows = classify(batch["texts"], batch_size=len(batch["texts"]), **limits)
        found = [{entry["label"]: entry["score"] for entry in row} for row in rows]
        return [{"label": max(row, key=row.get), "probabilities": row} for row in found]

    answer_questions(answer, facts, sys.stdin, answers)


if __name__ == "__main__":
    main()
