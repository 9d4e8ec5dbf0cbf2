"""The cache is made once, by one process; what is damaged is found, and made again."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nlpapp import disk
from nlpapp.data import pretraining_cache
from nlpapp.data.manifest import read_manifest
from nlpapp.data.pretraining_cache import cache_folder, open_arrays
from nlpapp.errors import DataError
from tests.conftest import REPOSITORY
from tests.data.tiny_shards import as_table, random_rows, write_folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "data", [as_table(random_rows(9, seed=s)) for s in range(3)])


@pytest.fixture
def made(monkeypatch):
    """The shards whose checksums were computed, in order."""
    checked = []
    real = disk.file_sha256

    def count(path):
        checked.append(path.name[6:11])
        return real(path)

    monkeypatch.setattr(disk, "file_sha256", count)
    return checked


def open_cache(folder, **options):
    return cache_folder(folder, read_manifest(folder), **options)


def ids(cache):
    return open_arrays(cache)["input_ids"].tolist()


def expected(count=3):
    rows = [row for seed in range(count) for row in random_rows(9, seed=seed)]
    return sum((row["input_ids"] for row in rows), [])


def test_made_once_and_then_only_mapped(folder, made):
    cache = open_cache(folder)
    assert ids(cache) == expected() and made == ["00000", "00001", "00002"]
    times = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert open_cache(folder) == cache and len(made) == 3
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == times
    assert sorted(path.name for path in (folder / "cache").iterdir()) == [cache.name, "lock"]


def test_without_verification_no_checksum_is_computed(folder, made):
    cache = open_cache(folder, verify=False)
    assert ids(cache) == expected() and made == []
    # Asked for later, it is made up for, once.
    open_cache(folder)
    assert made == ["00000", "00001", "00002"]
    open_cache(folder)
    assert len(made) == 3


def test_a_damaged_shard_is_found_before_anything_is_made(folder):
    path = folder / "shard-00001-of-00003.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{path.name} is damaged.*nlpapp make-data --config"):
        open_cache(folder)
    assert [other.name for other in (folder / "cache").iterdir()] == ["lock"]


def test_a_shard_that_changes_later_is_found(folder, made):
    cache = open_cache(folder)
    path = folder / "shard-00001-of-00003.parquet"
    sound = path.read_bytes()
    os.utime(path, ns=(1, 1))
    made.clear()
    # Only its time changed: its checksum is computed again, once.
    assert open_cache(folder) == cache and open_cache(folder) == cache and made == ["00001"]
    path.write_bytes(sound[:-1] + b"X")
    with pytest.raises(DataError, match=rf"{path.name} is damaged"):
        open_cache(folder)
    assert open_cache(folder, verify=False) == cache
    path.unlink()
    for verify in (True, False):
        with pytest.raises(DataError, match=rf"{path.name} is missing.*make-data --config"):
            open_cache(folder, verify=verify)
    path.write_bytes(sound)
    assert open_cache(folder) == cache


def test_a_missing_shard_is_named_at_the_first_opening(folder):
    (folder / "shard-00002-of-00003.parquet").unlink()
    for verify in (True, False):
        with pytest.raises(DataError, match=r"shard-00002-of-00003.parquet is missing"):
            open_cache(folder, verify=verify)


@pytest.mark.parametrize("damage", ["shorter", "missing", "record", "no record", "list", "other"])
def test_a_damaged_cache_is_made_again(folder, damage, caplog):
    cache = open_cache(folder)
    with open(cache / "input_ids", "r+b") as file:
        file.write(b"\0\0\0\0")
    if damage == "shorter":
        os.truncate(cache / "input_ids", 10)
    elif damage == "missing":
        (cache / "token_offsets").unlink()
    elif damage == "record":
        (cache / "cache.json").write_text('{"arrays"', encoding="utf-8")
    elif damage == "no record":
        (cache / "cache.json").unlink()
    else:
        text = "[1]" if damage == "list" else '{"arrays": [1]}'
        (cache / "cache.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="gone or damaged"):
        open_arrays(cache)
    with caplog.at_level("INFO"):
        assert ids(open_cache(folder)) == expected()
    assert "is damaged and is made again" in caplog.text and "reading in 3 shards" in caplog.text


def test_other_shards_have_another_cache_and_the_old_one_goes(folder):
    old = open_cache(folder)
    leftover = old.with_name(old.name + ".0123abcd.partial")
    leftover.mkdir()
    (folder / "cache" / "notes").mkdir()
    write_folder(folder, [as_table(random_rows(9, seed=s)) for s in range(2)])
    new = open_cache(folder)
    assert new != old and ids(new) == expected(2)
    left = sorted(path.name for path in (folder / "cache").iterdir())
    assert left == sorted([new.name, "lock", "notes"])


def test_a_folder_that_cannot_be_written_to(folder, tmp_path, monkeypatch, caplog):
    (folder / "cache").write_text("a file is in the way, for any user", encoding="utf-8")
    monkeypatch.setattr(pretraining_cache.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with caplog.at_level("INFO"):
        cache = open_cache(folder)
    assert ids(cache) == expected() and (tmp_path / "temporary") in cache.parents
    assert f"{folder} cannot be written to" in caplog.text and str(cache.parent) in caplog.text
    inode = (cache / "input_ids").stat().st_ino
    assert open_cache(folder) == cache and (cache / "input_ids").stat().st_ino == inode
    # A folder of that name that is somebody else's is not used.
    monkeypatch.setattr(pretraining_cache.os, "getuid", lambda: 12345)
    stranger = open_cache(folder)
    assert "12345" not in str(stranger) and ids(stranger) == expected()


def test_a_finished_cache_in_a_read_only_folder_is_used(folder, monkeypatch):
    cache = open_cache(folder)
    os.utime(folder / "shard-00001-of-00003.parquet", ns=(1, 1))

    def refuse(path, content):
        raise PermissionError("read-only")

    monkeypatch.setattr(pretraining_cache, "write_json", refuse)
    assert open_cache(folder) == cache


def test_a_full_disk_leaves_nothing_and_says_what_to_do(folder, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretraining_cache, "write_json", full)
    with pytest.raises(DataError, match="the disk is full. Make room and run the same command"):
        open_cache(folder)
    assert [path.name for path in (folder / "cache").iterdir()] == ["lock"]


def test_without_locks_each_process_makes_its_own(folder, monkeypatch):
    def refuse(file, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    other = folder / "cache" / ("0" * 32 + ".0123abcd.partial")
    other.mkdir(parents=True)
    real = os.replace

    def lose(partial, cache):
        """Another process is a moment earlier."""
        if Path(cache).parent.name == "cache":
            shutil.copytree(partial, cache)
        real(partial, cache)

    monkeypatch.setattr(pretraining_cache.os, "replace", lose)
    cache = open_cache(folder)
    assert ids(cache) == expected()
    # What another process may be writing is left alone.
    left = sorted(path.name for path in (folder / "cache").iterdir())
    assert left == sorted([cache.name, other.name, "lock"])


PROGRAM = """
import sys
from nlpapp.data.pretraining_data import PretrainingData
import logging
logging.basicConfig(level="INFO")
data = PretrainingData.open(sys.argv[1])
print(sum(int(data[index].input_ids.sum()) for index in range(len(data))))
"""


def test_processes_that_open_at_once_make_it_once(folder):
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=REPOSITORY)
        for _ in range(4)
    ]
    results = [process.communicate(timeout=60) for process in running]
    assert [out.split() for out, _ in results] == [[str(sum(expected())).encode()]] * 4
    assert sum(b"reading in 3 shards" in log for _, log in results) == 1
    record = json.loads(next((folder / "cache").glob("*/cache.json")).read_text())
    assert record["arrays"]["input_ids"] == ["<u2", len(expected())]
