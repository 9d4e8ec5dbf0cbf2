"""Documents of a data set of the Hugging Face Hub, streamed: nothing is stored on this machine."""

from collections.abc import Iterator
from typing import Any

from nlpapp.errors import ConfigError, DataError
from nlpapp.text.sentences import Document
from nlpapp.text.source_bytes import Source, SourcePart
from nlpapp.text.source_tables import choose_text_column, document_of

PREFIX = "hub:"
EXPECTED = "expected hub:owner/name, or hub:owner/name:config:split"


def find_hub_source(given: str, *, text_column: str | None) -> Source:
    """Return the data set that ``hub:owner/name`` or ``hub:owner/name:config:split`` stands for.

    Without a split it is ``train``.

    Raises:
        ConfigError: ``given`` is of another form.
        DataError: the data set cannot be reached, or has no such configuration, split or column.
    """
    fields = given.removeprefix(PREFIX).split(":")
    if len(fields) > 3 or not fields[0] or not all(fields[2:]):
        raise ConfigError(f"'{given}' names no data set of the Hub: {EXPECTED}.")
    path, config, split = [*fields, *["", "train"][len(fields) - 1 :]]
    name = f"{PREFIX}{path}:{config}:{split}"
    data = _open(name)
    columns = _columns(data, name)
    column = choose_text_column(columns, text_column, name)
    return Source(name, "hub", "none", 0, 0, column, "file")


def count_hub_shards(source: Source) -> int:
    """Return how many shards the data set has; they can be read apart from one another."""
    return int(_open(source.name).num_shards)


def read_hub(part: SourcePart) -> Iterator[Document]:
    """Yield the documents of some shards; ``line`` is the row in its shard, counted from 1."""
    source = part.source
    data = _open(source.name)
    for index in range(part.start, part.stop):
        shard = data.shard(num_shards=data.num_shards, index=index)
        rows = iter(shard.select_columns([source.text_column]))
        number = 0
        while (row := _next(rows, source.name)) is not None:
            number += 1
            yield document_of(row[source.text_column], source, number)


def _columns(data: Any, name: str) -> dict[str, bool]:
    if data.features is not None:
        return {
            column: getattr(kind, "dtype", "") in ("string", "large_string")
            for column, kind in data.features.items()
        }
    first = _next(iter(data), name)
    if first is None:
        raise DataError(f"{name} holds no rows.")
    return {column: isinstance(value, str) for column, value in first.items()}


def _open(name: str) -> Any:
    import datasets

    # A folder on this machine may stand in for owner/name, and its path may hold colons.
    path, config, split = name.removeprefix(PREFIX).rsplit(":", 2)
    try:
        return datasets.load_dataset(path, config or None, split=split, streaming=True)
    except Exception as error:  # Of the network, of the files, or of what was asked for.
        raise _error(name, error) from None


def _next(rows: Iterator[Any], name: str) -> Any:
    try:
        return next(rows, None)
    except Exception as error:  # The stream goes over the network and through any file format.
        raise _error(name, error) from None


def _error(name: str, error: Exception) -> DataError:
    why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return DataError(
        f"{name} cannot be read from the Hugging Face Hub ({type(error).__name__}: {why}): check "
        "the name, the configuration, the split and the network, or download its files on a "
        "machine with a network and give their folder as input."
    )
