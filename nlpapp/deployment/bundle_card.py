"""The model card of a bundle: what it is, how well it does, how large and fast, how to call it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlpapp.deployment.bundle import HUB_FOLDER, PROGRAM_FILE
from nlpapp.deployment.bundle_files import MODEL_FILES

KIND_NAMES = {
    "classifier": ("Text classifier", "text-classification"),
    "regression": ("Text regression", "text-classification"),
    "encoder": ("Text encoder", "feature-extraction"),
    "language-model": ("Language model", "text-generation"),
}
WEIGHTS = {
    "fp32": "float32",
    "fp16": "float16, for GPUs",
    "int8": "int8, ranges of activations measured in each run",
    "int8-static": "int8, ranges of activations from calibration data",
    "torch-export": "float32, a program of torch.export",
    "safetensors": "float32, a folder for transformers and the Hub",
}
FILES = {**MODEL_FILES, "torch-export": PROGRAM_FILE, "safetensors": f"{HUB_FOLDER}/"}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What the card says."""

    kind: str
    model_type: str
    metrics: Mapping[str, float]
    """As in metrics.json."""
    labels: list[str] = field(default_factory=list)
    max_seq_length: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    """More rows of the first table: name -> text, such as the data it was measured on."""
    layers: list[int] = field(default_factory=list)
    pairs: bool = False


def write_card(folder: Path, card: Card) -> None:
    """Write README.md."""
    title, task = KIND_NAMES[card.kind]
    millions = card.metrics["parameters"] / 1e6
    parts = [
        f"---\nlibrary_name: onnx\npipeline_tag: {task}\n---",
        f"# {title} ({card.model_type}, {millions:.2f} M parameters) in ONNX",
        "Needs numpy, onnxruntime and tokenizers; neither PyTorch nor transformers.",
        _facts(card),
        _quality(card.metrics),
        _parity(card.metrics),
        _usage(card),
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8")


def precisions(metrics: Mapping[str, float]) -> list[str]:
    """Return the formats that were compared, in the order of `FILES`."""
    return [name for name in FILES if f"{name}_max_difference" in metrics]


def _facts(card: Card) -> str:
    lines = []
    if card.kind == "classifier":
        lines.append(f"labels: {', '.join(card.labels)}")
    elif card.kind == "regression":
        lines.append("labels: none: the model gives a score")
    elif card.kind == "encoder":
        lines.append(f"layers: {', '.join(map(str, card.layers))} (0: the embeddings)")
    if card.max_seq_length is not None:
        lines.append(f"reads at most {card.max_seq_length} tokens of a text; the rest is cut")
    lines += [f"{name}: {text}" for name, text in card.facts.items()]
    lines.append("`manifest.json` holds a sha256 of every file; the readers check those they open")
    return "## What it is\n\n" + "\n".join(f"- {line}" for line in lines)


def _quality(metrics: Mapping[str, float]) -> str:
    """Return the metrics of the data set, where one was given: those of PyTorch come first."""
    names = [
        name.removeprefix("dev_pytorch_")
        for name in metrics
        if name.startswith("dev_pytorch_")
        and not name.endswith(("_low", "_high", "_loss", "_degenerate"))
    ]
    if not names:
        return ""
    columns = ["model", *names, "rows"]
    rows = [columns, ["---"] * len(columns)]
    for model in ("pytorch", *precisions(metrics)):
        found = [_with_interval(metrics, f"dev_{model}_{name}") for name in names]
        if any(found):
            rows.append([model, *found, f"{metrics['dev_rows']:.0f}"])
    note = "In brackets: the 95 % bootstrap interval over the rows."
    return "## Metrics\n\n" + _table(rows) + "\n\n" + note


def _with_interval(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    text = f"{metrics[name]:.4f}"
    if f"{name}_low" in metrics:
        text += f" ({metrics[f'{name}_low']:.4f} to {metrics[f'{name}_high']:.4f})"
    return text


def _parity(metrics: Mapping[str, float]) -> str:
    columns = ["file", "weights", "bytes", "largest difference", "same answer", "latency, ms"]
    rows = [columns, ["---"] * len(columns)]
    for name in precisions(metrics):
        share = metrics.get(f"{name}_weight_share")
        weights = WEIGHTS[name] + (f" ({share:.1%} of the weights)" if share is not None else "")
        latency = metrics.get(f"{name}_latency_ms")
        rows.append(
            [
                FILES[name],
                weights,
                f"{metrics[f'{name}_bytes']:,.0f}",
                f"{metrics[f'{name}_max_difference']:.1e}",
                f"{metrics[f'{name}_label_agreement']:.4f}",
                "" if latency is None else f"{latency:.2f}",
            ]
        )
    note = (
        f"Largest difference from PyTorch's output, and share of equal largest outputs, over "
        f"{metrics['parity_batches']:.0f} random batches of 1 to 64 rows and 1 to the maximal "
        "length, with padding. Latency: median of one text of 16 tokens on one thread of the "
        "machine that exported."
    )
    return "## Size, speed, and equality with PyTorch\n\n" + _table(rows) + "\n\n" + note


def _table(rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _usage(card: Card) -> str:
    smaller = next((name for name in ("int8", "fp16") if name in precisions(card.metrics)), None)
    body = USAGE[card.kind]
    pair = card.pairs
    text = body.format(
        texts='[("first text", "second text")]' if pair else '["a text"]',
        result="[{'score': ...}]" if card.kind == "regression" else RESULT,
        words='--pair "first text ||| second text"' if pair else '"a text"',
        json='["first text"], "pairs": ["second text"]' if pair else '["a text"]',
    )
    if smaller is not None:
        text += f'\n\n`precision="{smaller}"` (`--precision {smaller}`) takes the smaller file.'
    install = (
        "On a machine without PyTorch: `pip install --no-deps nlpapp` and "
        "`pip install numpy onnxruntime tokenizers`; `predict.py` does without nlpapp as well."
    )
    return "## How to call it\n\n" + text + "\n\n" + install


RESULT = "[{'label': ..., 'probabilities': {...}}]"
_CLASSIFIER = """```python
from nlpapp.deployment.runtime import Predictor

predictor = Predictor("path/of/this/folder")
predictor.predict({texts})  # {result}
```

```bash
python predict.py {words}
```

```bash
nlpapp serve --models '["path/of/this/folder"]'
curl localhost:8000/predict -H 'Content-Type: application/json' -d '{{"texts": {json}}}'
```"""
USAGE: dict[str, Any] = {
    "classifier": _CLASSIFIER,
    "regression": _CLASSIFIER,
    "encoder": """```python
from nlpapp.deployment.runtime import Encoder

encoder = Encoder("path/of/this/folder")
encoder.encode({texts}, pooling="mean", layer=-1)  # (texts, width) float32
```

```bash
python predict.py {words}
```

```bash
nlpapp serve --models '["path/of/this/folder"]'
curl localhost:8000/embed -H 'Content-Type: application/json' -d '{{"texts": {json}}}'
```""",
    "language-model": """```python
from nlpapp.deployment.language_runtime import LanguageModel

LanguageModel("path/of/this/folder").generate("the", max_new_tokens=50)
```

```bash
python predict.py "the" --max_new_tokens 50
```""",
}
