"""The files of a bundle as its readers see them: the manifest, and files checked against it.

Imported by the runtime, so it needs the standard library only.
"""

import json
from pathlib import Path
from typing import Any, Literal

from nlpapp.disk import file_sha256
from nlpapp.errors import CheckpointError

Precision = Literal["fp32", "fp16", "int8", "int8-static"]

MODEL_FILES = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
    "int8-static": "model.int8-static.onnx",
}
"""Precision -> file of the ONNX model."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of the bundle in ``folder``.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a bundle: it has no manifest.json. Make one with nlpapp export."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        return dict(manifest) | {"files": dict(manifest["files"])}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); export the model again.") from error


def verified_path(folder: Path, name: str, checksums: dict[str, str]) -> Path:
    """Return the path of a file of the bundle, if it is the one that was exported.

    Raises:
        CheckpointError: it is missing, or its sha256 is another.
    """
    try:
        found = file_sha256(folder / name)
    except OSError as error:
        raise CheckpointError(
            f"cannot read {folder / name}: {error}. Copy the whole bundle again."
        ) from error
    if found != checksums.get(name):
        raise CheckpointError(
            f"{folder / name} is not the file that was exported: its sha256 differs from the one "
            "in manifest.json. Copy the bundle again, or export the model again."
        )
    return folder / name


def verified_bytes(folder: Path, name: str, checksums: dict[str, str]) -> bytes:
    """Return the bytes of a file of the bundle, checked as in `verified_path`."""
    return verified_path(folder, name, checksums).read_bytes()


def read_labels(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the label names by class index; none for a regression."""
    return list(json.loads(verified_bytes(folder, "labels.json", manifest["files"]))["labels"])
