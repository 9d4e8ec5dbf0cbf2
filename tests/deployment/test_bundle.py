import hashlib
import json

import pytest
from tokenizers import Tokenizer

from nlpapp.deployment.bundle import new_bundle, write_manifest, write_tokenizer
from nlpapp.errors import ConfigError
from tests.deployment.models import load_tokenizer


def test_a_bundle_appears_only_when_it_is_complete(tmp_path):
    with pytest.raises(RuntimeError), new_bundle(tmp_path / "b") as partial:
        (partial / "model.onnx").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_bundle(tmp_path / "b") as partial:
        (partial / "model.onnx").write_text("whole")
        write_manifest(partial, {"kind": "classifier"})
        assert not (tmp_path / "b").exists()
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"model.onnx", "manifest.json"}


def test_a_failed_export_leaves_the_old_bundle(tmp_path):
    with new_bundle(tmp_path / "b") as partial:
        write_manifest(partial, {"kind": "old"})
    with pytest.raises(RuntimeError), new_bundle(tmp_path / "b"):
        raise RuntimeError
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["kind"] == "old"


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with (
        pytest.raises(ConfigError, match="cannot write the bundle to .*file/b"),
        new_bundle(tmp_path / "file" / "b"),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="is no bundle"),
        new_bundle(tmp_path / "file"),
    ):
        pass


def test_sums_cover_files_in_folders(tmp_path):
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface" / "config.json").write_text("{}")
    write_manifest(tmp_path, {"kind": "encoder"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["files"] == {"huggingface/config.json": hashlib.sha256(b"{}").hexdigest()}
    assert manifest["kind"] == "encoder" and "onnxruntime" in manifest["versions"]


def test_the_tokenizer_cuts_and_pads_and_the_users_own_stays(tiny_tokenizer_folder, tmp_path):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    before = tokenizer.backend_tokenizer.to_str()
    write_tokenizer(tokenizer, tmp_path, max_seq_length=5)
    assert tokenizer.backend_tokenizer.to_str() == before
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    rows = saved.encode_batch(["the cat sat on the mat", "a"])
    assert [len(row.ids) for row in rows] == [5, 5] and rows[1].ids[3:] == [0, 0]
