"""A bundle's folder: everything beside the models, and the step that gives it its name.

<bundle>/model.onnx              float32, any batch size and length
         model.fp16.onnx         16-bit floats (optional)
         model.int8.onnx         8-bit weights (optional)
         model.int8-static.onnx  the same with ranges from calibration data (optional)
         model.pt2               a torch.export program (optional)
         huggingface/            model.safetensors, config and tokenizer for the Hub (optional)
         tokenizer.json          the tokenizer, with truncation and padding set
         labels.json             {"labels": [names by class index]}; empty but of classifiers
         metrics.json            sizes, latency, and how far the files are from the PyTorch model
         README.md               the model card
         predict.py              answers with numpy, onnxruntime and tokenizers alone
         manifest.json           what it was made from, and a sha256 of each file above
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from tokenizers import Tokenizer

from nlpapp import __version__
from nlpapp.deployment import standalone, standalone_generate
from nlpapp.disk import file_sha256
from nlpapp.errors import ConfigError

PROGRAM_FILE = "model.pt2"
HUB_FOLDER = "huggingface"


@contextmanager
def new_bundle(folder: Path) -> Iterator[Path]:
    """Give a folder to write to, which becomes ``folder`` if nothing fails, in place of a bundle.

    Raises:
        ConfigError: ``folder`` holds something else than a bundle, or cannot be written.
    """
    if folder.exists() and not (folder / "manifest.json").is_file():
        raise ConfigError(f"{folder} exists and is no bundle; give a new folder for the bundle.")
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write the bundle to {folder}: {error}. Give a folder that can be written."
        ) from error
    try:
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
    except OSError as error:
        raise ConfigError(
            f"cannot write the bundle to {folder}: {error}. Give a folder that can be written, on "
            "a disk with room for the model's files."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_tokenizer(tokenizer: Any, folder: Path, *, max_seq_length: int) -> None:
    """Write tokenizer.json, which cuts to ``max_seq_length`` tokens and pads to the longest row."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # a copy: settings follow
    backend.enable_truncation(max_seq_length, direction=tokenizer.truncation_side)
    backend.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
    backend.save(str(folder / "tokenizer.json"))


def write_labels(folder: Path, labels: list[str]) -> None:
    """Write labels.json."""
    write_json(folder / "labels.json", {"labels": labels})


def write_program_file(folder: Path, kind: str) -> None:
    """Write predict.py, the program that needs nothing of nlpapp."""
    module = standalone_generate if kind == "language-model" else standalone
    shutil.copyfile(str(module.__file__), folder / "predict.py")


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write manifest.json: ``facts``, versions, and a sha256 of every file that is there."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format": 2,
        **facts,
        "versions": {
            "nlpapp": __version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "files": {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths},
    }
    write_json(folder / "manifest.json", manifest)


def write_json(path: Path, value: Any) -> None:
    """Write ``value``, and wait until the disk has it."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
