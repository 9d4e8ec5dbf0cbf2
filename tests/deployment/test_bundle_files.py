import hashlib
import json

import pytest

from nlpapp.deployment.bundle_files import (
    MODEL_FILES,
    read_labels,
    read_manifest,
    verified_bytes,
    verified_path,
)
from nlpapp.disk import file_sha256
from nlpapp.errors import CheckpointError


def test_a_file_is_given_if_it_is_the_exported_one(tmp_path):
    content = b"x" * (3 << 20)  # more than one part is read
    (tmp_path / "model.onnx").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    assert file_sha256(tmp_path / "model.onnx") == digest
    sums = {"model.onnx": digest}
    assert verified_path(tmp_path, "model.onnx", sums) == tmp_path / "model.onnx"
    assert verified_bytes(tmp_path, "model.onnx", sums) == content
    (tmp_path / "model.onnx").write_bytes(content + b"y")
    with pytest.raises(CheckpointError, match="model.onnx is not the file that was exported"):
        verified_path(tmp_path, "model.onnx", sums)
    with pytest.raises(CheckpointError, match="cannot read.*Copy the whole bundle"):
        verified_path(tmp_path, "other", sums)


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "x"}', '{"files": 3}'])
def test_a_damaged_manifest_is_refused(text, tmp_path):
    with pytest.raises(CheckpointError, match="is not a bundle"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match="manifest.json is damaged"):
        read_manifest(tmp_path)


def test_labels_are_read_in_their_order(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"labels": ["b", "a"]}))
    files = {"labels.json": file_sha256(tmp_path / "labels.json")}
    (tmp_path / "manifest.json").write_text(json.dumps({"files": files}))
    assert read_labels(tmp_path, read_manifest(tmp_path)) == ["b", "a"]
    assert len(set(MODEL_FILES.values())) == 4
