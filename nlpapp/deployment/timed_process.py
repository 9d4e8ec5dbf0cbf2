"""A process that holds one model and times it, asked in JSON lines through its standard input.

    python -m nlpapp.deployment.timed_process '{"folder": "a/bundle", "precision": "int8"}'

A process of its own is what makes load time, memory and threads those of this model alone. The
side that asks is `deployment.benchmark`. Bundles are read here without importing PyTorch.

The answer of a language model is each text with `NEW_TOKENS` of its likeliest tokens after it.

Questions, and what is answered besides peak_bytes:
    {"time": [batch, ...]}   seconds: one number a batch
    {"predict": batch}       predictions: one a text; none of an encoder
A batch is {"texts": [...], "pairs": [...] or null}. The first answer, before any question, has
load_ms, and parameters where they could be counted; an error ends the process with {"error": text}.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from nlpapp.errors import NlpappError

Batch = Mapping[str, Any]
Answer = Callable[[Batch], Any]
NEW_TOKENS = 16
"""Tokens that a language model writes after each text; without memory of the text before."""


def peak_bytes() -> int:
    """Return the largest resident memory that this process has had, in bytes."""
    try:
        # Not getrusage: there the peak of the process that started this one lives on.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no Linux: what is resident now is the nearest that can be known
    import psutil

    return int(psutil.Process().memory_info().rss)


def open_bundle(specification: Mapping[str, Any]) -> tuple[Answer, dict[str, Any]]:
    """Return what answers a batch with a model of a bundle, and facts about its loading."""
    folder = specification["folder"]
    options = {name: specification[name] for name in ("precision", "threads")}
    if specification.get("task") == "language-model":
        from nlpapp.deployment.language_runtime import LanguageModel

        start = time.perf_counter()
        generate = LanguageModel(folder, **options).generate
        facts = {"load_ms": (time.perf_counter() - start) * 1000}

        def continued(batch: Batch) -> Any:
            settings: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "temperature": 0}
            return [
                {"text": generate(" ".join(text.split()), **settings)} for text in batch["texts"]
            ]

        return continued, facts
    from nlpapp.deployment.runtime import Encoder, open_bundle

    start = time.perf_counter()
    reader = open_bundle(folder, **options)
    facts = {"load_ms": (time.perf_counter() - start) * 1000}
    if isinstance(reader, Encoder):
        encode = reader.encode

        def vectors(batch: Batch) -> Any:
            texts, pairs = batch["texts"], batch.get("pairs")
            rows = texts if pairs is None else list(zip(texts, pairs, strict=True))
            return encode(rows, batch_size=len(texts))

        return vectors, facts
    predict = reader.predict
    return lambda batch: predict(
        batch["texts"], batch.get("pairs"), batch_size=len(batch["texts"])
    ), facts


def open_torch(specification: Mapping[str, Any]) -> tuple[Answer, dict[str, Any]]:
    """Return what answers a batch with a PyTorch model folder, and facts about its loading."""
    import torch

    from nlpapp.deployment import torch_predictor

    torch.set_num_threads(specification["threads"])
    task = specification["task"]
    load_model, load_tokenizer = (
        _function(specification[name]) for name in ("load_model", "load_tokenizer")
    )
    extra: dict[str, Any] = {}
    if task == "language-model":
        wrap: Callable[..., Any] = torch_predictor.torch_generator
        extra = {"generate": _function(specification["generate"]), "new_tokens": NEW_TOKENS}
    else:
        encodes = task == "encoder"
        wrap = torch_predictor.torch_encoder if encodes else torch_predictor.torch_predictor
        extra = {"max_seq_length": specification["max_seq_length"]}
    start = time.perf_counter()
    model = load_model(specification["folder"])
    tokenizer = load_tokenizer(specification["folder"])
    answer = wrap(model, tokenizer, **extra)
    facts = {
        "load_ms": (time.perf_counter() - start) * 1000,
        "parameters": sum(weight.numel() for weight in model.parameters()),
    }
    return lambda batch: answer(batch["texts"], batch.get("pairs")), facts


def _function(name: str) -> Callable[..., Any]:
    """Return the function called "module:name"; layers above this one are only named, not known."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def answer_questions(
    answer: Answer, facts: Mapping[str, Any], questions: TextIO, answers: TextIO
) -> None:
    """Answer each line of ``questions`` with a line in ``answers``, until the questions end."""

    def reply(**found: Any) -> None:
        answers.write(json.dumps(found | {"peak_bytes": peak_bytes()}) + "\n")
        answers.flush()

    reply(**facts)
    for line in questions:
        question = json.loads(line)
        if "predict" in question:
            found = answer(question["predict"])
            reply(predictions=found if isinstance(found, list) else None)
            continue
        seconds = []
        for batch in question["time"]:
            start = time.perf_counter()
            answer(batch)
            seconds.append(time.perf_counter() - start)
        reply(seconds=seconds)


def main(arguments: list[str]) -> int:
    """Load the model that the one argument describes, and answer questions about it."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not stand between the answers
    try:
        specification = json.loads(arguments[0])
        opened = (open_bundle if "precision" in specification else open_torch)(specification)
        answer_questions(*opened, sys.stdin, answers)
    except NlpappError as error:
        answers.write(json.dumps({"error": str(error), "kind": type(error).__name__}) + "\n")
        answers.flush()
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
