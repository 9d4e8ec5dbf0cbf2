import json

import pytest

from nlpapp.data.manifest import (
    FORMAT,
    MANIFEST,
    UNFINISHED,
    check_shard,
    read_manifest,
    repair_command,
    shard_name,
    statistics,
    write_manifest,
)
from nlpapp.disk import file_sha256, write_json
from nlpapp.errors import DataError


def record(folder, name, content, **counts):
    (folder / name).write_bytes(content)
    return {
        "file": name,
        "sha256": file_sha256(folder / name),
        "bytes": len(content),
        "counts": counts,
        "lengths": [0] * len(content) + [counts["instances"]],
    }


@pytest.fixture
def written(tmp_path):
    shards = [
        record(tmp_path, shard_name(0, 2), b"abc", instances=2, instance_tokens=6, random_next=1),
        record(
            tmp_path, shard_name(1, 2), b"fghij", instances=2, instance_tokens=10, random_next=0
        ),
    ]
    identity = {"options": {"objective": "nsp"}, "counts": {"documents_read": 3}}
    return tmp_path, write_manifest(tmp_path, identity, shards)


def test_shards_are_added_up(written):
    folder, manifest = written
    assert manifest == read_manifest(folder) == json.loads((folder / MANIFEST).read_text())
    assert manifest["format"] == FORMAT and manifest["options"] == {"objective": "nsp"}
    assert manifest["counts"] == {
        "bytes": 8, "documents_read": 3, "instance_tokens": 16, "instances": 4, "random_next": 1,
    }  # fmt: skip
    assert manifest["lengths"] == [0, 0, 0, 2, 0, 2]
    assert [shard["file"] for shard in manifest["shards"]] == [
        "shard-00000-of-00002.parquet", "shard-00001-of-00002.parquet",
    ]  # fmt: skip
    assert manifest["statistics"]["next_sentence_random_share"] == 0.25
    assert manifest["statistics"]["mean_length"] == 4 and manifest["statistics"]["mask_rate"] == 0
    assert manifest["statistics"]["bytes_per_token"] == 0.5


def test_statistics_of_nothing():
    assert set(statistics({}).values()) == {0.0}


def test_a_damaged_shard_is_named_with_the_command_that_repairs_it(written):
    folder, manifest = written
    first, second = manifest["shards"]
    check_shard(folder, first)
    (folder / first["file"]).write_bytes(b"abd")
    with pytest.raises(DataError, match="00000-of-00002.parquet is damaged.*make-data --config"):
        check_shard(folder, first)
    (folder / second["file"]).unlink()
    with pytest.raises(DataError, match="00001-of-00002.parquet is missing"):
        check_shard(folder, second)


def test_the_command_is_the_one_that_made_the_data(tmp_path):
    assert repair_command(tmp_path) == f"nlpapp make-data --config {tmp_path / 'config.yaml'}"
    (tmp_path / "config.yaml").touch()
    write_json(tmp_path / "environment.json", {"command": "convert-data"})
    assert repair_command(tmp_path) == f"nlpapp convert-data --config {tmp_path / 'config.yaml'}"
    # The data set of a phase lies in the folder of the run.
    (tmp_path / "phase2").mkdir()
    assert repair_command(tmp_path / "phase2") == repair_command(tmp_path)


def test_what_is_no_data_says_so(tmp_path):
    with pytest.raises(DataError, match="holds no pretraining data"):
        read_manifest(tmp_path)
    (tmp_path / UNFINISHED).mkdir()
    with pytest.raises(DataError, match="is not finished. Go on with `nlpapp make-data"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is damaged"):
        read_manifest(tmp_path)
    write_json(tmp_path / MANIFEST, {"format": 1})
    with pytest.raises(
        DataError, match="is of format 1; .* reads 3.*another folder: `nlpapp make-data --con"
    ):
        read_manifest(tmp_path)
