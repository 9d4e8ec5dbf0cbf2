"""Where the arrays of a pretraining data folder lie, and when they are made (again).

    <data folder>/cache/<of the shards' checksums>/cache.json and the arrays (`pretraining_arrays`)

cache.json says how large the arrays are, and which shards they were read from. The cache may be
removed at any time: the next opening makes it again.
"""

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nlpapp.data.manifest import check_shard
from nlpapp.data.pretraining_arrays import ArrayFiles, are_complete, map_arrays
from nlpapp.disk import only_one, read_json, write_json
from nlpapp.errors import DataError

log = logging.getLogger(__name__)

LAYOUT = 1
"""Number of the layout above; a cache of another one is not read."""

CACHE = "cache"
RECORD = "cache.json"
OWN_NAMES = re.compile(r"[0-9a-f]{32}(\.[0-9a-f]{8}\.partial)?")
"""Folders that this module makes, and may remove."""


def cache_folder(folder: Path, manifest: Mapping[str, Any], *, verify: bool = True) -> Path:
    """Return the folder with the arrays of the shards, made first if it is not there.

    Several processes may ask at once: one makes the arrays, the others wait for it. Where the
    data folder cannot be written to, the arrays are in the folder for temporary files.

    Args:
        folder: the data folder.
        manifest: its manifest.
        verify: check every shard that is read in, or has changed since, against its checksum.

    Raises:
        DataError: a shard is missing, damaged or no shard, or there is no room for the arrays.
    """
    key = _key(manifest)
    inside = folder / CACHE / key
    if not _is_sound(inside):
        try:
            (folder / CACHE).mkdir(exist_ok=True)
            (folder / CACHE / "lock").touch()
        except OSError as error:
            root = _temporary_root(key)
            log.info("%s cannot be written to (%s); its arrays are in %s", folder, error, root)
            inside = root / key
        _make_alone(inside, folder, manifest, verify)
    _check_shards(inside, folder, manifest, verify)
    return inside


def open_arrays(cache: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a cache by name, read-only; the disk is read where they are used.

    Raises:
        DataError: the cache is not there any more.
    """
    record = _record(cache)
    if not are_complete(cache, record.get("arrays")):
        raise DataError(f"{cache} is gone or damaged; run the same command again to make it anew")
    return map_arrays(cache, record["arrays"])


def _key(manifest: Mapping[str, Any]) -> str:
    checksums = [f"layout {LAYOUT}", *(record["sha256"] for record in manifest["shards"])]
    return hashlib.sha256("\n".join(checksums).encode()).hexdigest()[:32]


def _temporary_root(key: str) -> Path:
    root = Path(tempfile.gettempdir()) / f"nlpapp-{os.getuid()}-{key}"
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        # Somebody else took that name, and could change what is read.
        root = Path(tempfile.mkdtemp(prefix="nlpapp-"))
    return root


def _record(cache: Path) -> dict[str, Any]:
    try:
        record = read_json(cache / RECORD)
    except OSError:
        return {}
    return record if isinstance(record, dict) else {}


def _is_sound(cache: Path) -> bool:
    return are_complete(cache, _record(cache).get("arrays"))


def _check_shards(cache: Path, folder: Path, manifest: Mapping[str, Any], verify: bool) -> None:
    """Raise `DataError` if a shard is missing, or has changed since it was last checked."""
    record = _record(cache)
    known = record.get("shards", {})
    now = {}
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        now[shard["file"]] = _state(path)
        if not path.is_file() or (verify and now[shard["file"]] != known.get(shard["file"])):
            check_shard(folder, shard)
    if verify and now != known:
        # A cache in a folder that cannot be written to goes on to be checked each time.
        with contextlib.suppress(OSError):
            write_json(cache / RECORD, {**record, "shards": now})


def _state(path: Path) -> list[int] | None:
    """Return size in bytes and time of change in nanoseconds, or None if there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _make_alone(cache: Path, folder: Path, manifest: Mapping[str, Any], verify: bool) -> None:
    """Make the cache unless another process has just done it; remove what lies beside it."""
    with only_one(cache.parent / "lock", f"reads in the shards of {folder}") as is_alone:
        if _is_sound(cache):
            return
        if cache.exists():
            log.warning("%s is damaged and is made again", cache)
        for other in cache.parent.iterdir():
            # Left over from an interruption, or of shards that are no longer here.
            if OWN_NAMES.fullmatch(other.name) and (is_alone or other == cache):
                shutil.rmtree(other, ignore_errors=True)
        size = sum((folder / shard["file"]).stat().st_size for shard in _present(folder, manifest))
        log.info("reading in %d shards (%.0f MB) -> %s", len(manifest["shards"]), size / 1e6, cache)
        partial = cache.with_name(f"{cache.name}.{secrets.token_hex(4)}.partial")
        try:
            partial.mkdir()
            _write(partial, folder, manifest, verify)
            os.replace(partial, cache)
        except OSError as error:
            if not _is_sound(cache):
                raise _cannot_write(cache, error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _present(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the records of the shards; the first one that is missing raises `DataError`."""
    for shard in manifest["shards"]:
        if not (folder / shard["file"]).is_file():
            check_shard(folder, shard)
        yield shard


def _cannot_write(cache: Path, error: OSError) -> DataError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return DataError(
        f"Cannot lay out the shards as arrays in {cache}: "
        f"{'the disk is full' if full else error}. "
        f"{'Make room' if full else 'Put it right'} and run the same command again; the shards "
        "are as they were."
    )


def _write(cache: Path, folder: Path, manifest: Mapping[str, Any], verify: bool) -> None:
    states = {}
    with ArrayFiles(cache) as arrays:
        for shard in manifest["shards"]:
            if verify:
                # Before the check, so that a change during it is found at the next opening.
                states[shard["file"]] = _state(folder / shard["file"])
                check_shard(folder, shard)
            arrays.append_shard(folder / shard["file"])
    write_json(cache / RECORD, {"arrays": arrays.sizes, "shards": states})
