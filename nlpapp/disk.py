"""Files that are whole or absent, their checksums, and what to do when the disk is full."""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from nlpapp.errors import DataError

logger = logging.getLogger("nlpapp")


def damage(path: Path, sha256: str) -> str | None:
    """Return what is wrong with a file, or None if it is as it was written."""
    if not path.is_file():
        return "missing"
    return None if file_sha256(path) == sha256 else "damaged (its checksum differs)"


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, in hex, reading a piece at a time."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file, or None if it is not there or damaged."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content``: a reader sees the old file or the new."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8: a reader sees the old file or the new."""
    with written_whole(path) as file:
        file.write(text.encode("utf-8"))


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write; it gets its name when it is whole."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def disk_errors(folder: str | Path, kept: str) -> Iterator[None]:
    """Turn errors of the disk into what a user can do about them."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"Cannot write to {folder}: the disk is full." if full else f"{folder}: {error}."
        way = "make room" if full else "put it right"
        raise DataError(f"{what} {kept}; {way} and run the same command again.") from error


@contextlib.contextmanager
def only_one(lock: Path, work: str) -> Iterator[bool]:
    """Wait until no other process of this machine, or of its network file system, does ``work``.

    Args:
        lock: file that says so; it stays, empty.
        work: what is done, as "writes the file x", for the message to whoever waits.

    Yields:
        False where files cannot be locked, as on some network file systems, or be written.
    """
    try:
        file = open(lock, "a")  # noqa: SIM115 (closed below)
    except OSError:
        yield False
        return
    with file:
        is_alone = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process %s; waiting for it", work)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            is_alone = False
        yield is_alone
