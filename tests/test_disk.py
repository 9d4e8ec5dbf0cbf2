import errno
import fcntl
import hashlib

import pytest

from nlpapp.disk import (
    damage,
    disk_errors,
    file_sha256,
    only_one,
    read_json,
    write_json,
    write_text,
    written_whole,
)
from nlpapp.errors import DataError


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    assert read_json(path) is None
    write_json(path, {"a": 1})

    def failing(*arguments):
        raise OSError("no")

    monkeypatch.setattr("nlpapp.disk.os.replace", failing)
    with pytest.raises(OSError):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1} and list(tmp_path.iterdir()) == [path]


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(KeyboardInterrupt), written_whole(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    with written_whole(path) as file:
        file.write(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole" and list(tmp_path.iterdir()) == [path]


def test_damage_is_found(tmp_path):
    path = tmp_path / "x"
    assert damage(path, "") == "missing"
    path.write_bytes(b"a" * 3_000_000)
    assert file_sha256(path) == hashlib.sha256(b"a" * 3_000_000).hexdigest()
    assert damage(path, file_sha256(path)) is None
    assert damage(path, "0") == "damaged (its checksum differs)"


def test_json_that_is_damaged_is_not_there(tmp_path):
    (tmp_path / "x.json").write_bytes(b"{\xff")
    assert read_json(tmp_path / "x.json") is None


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.ENOSPC, "the disk is full. All is kept; make room and"), (errno.EIO, "put it right")],
)
def test_errors_of_the_disk_say_what_to_do(number, text):
    with pytest.raises(DataError, match=text), disk_errors("folder", "All is kept"):
        raise OSError(number, "no")


def test_a_failed_write_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_text(path, "old \u00e9")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old \u00e9" and list(tmp_path.iterdir()) == [path]


def test_work_that_cannot_be_locked_is_done_all_the_same(tmp_path, monkeypatch):
    with only_one(tmp_path / "lock", "works") as is_alone:
        assert is_alone
    with only_one(tmp_path / "missing" / "lock", "works") as is_alone:
        assert not is_alone

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with only_one(tmp_path / "lock", "works") as is_alone:
        assert not is_alone
