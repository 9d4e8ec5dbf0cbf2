import datasets
import pyarrow
import pyarrow.parquet
import pytest

from nlpapp.errors import ConfigError, DataError
from nlpapp.text.source_hub import count_hub_shards, find_hub_source, read_hub
from nlpapp.text.sources import find_sources, read_part, read_source, split_source


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a data set of two shards; load_dataset takes a folder as it takes owner/name."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    for index in range(2):
        rows = [f"Row {index}.{row} is here. It ends." for row in range(3 + index)]
        table = pyarrow.table({"id": range(len(rows)), "body": rows})
        pyarrow.parquet.write_table(table, folder / f"train-{index:05d}-of-00002.parquet")
    pyarrow.parquet.write_table(
        pyarrow.table({"text": ["A test row."], "title": ["t"]}),
        folder / "test-00000-of-00001.parquet",
    )
    return folder


@pytest.fixture
def training_folder(folder):
    (folder / "test-00000-of-00001.parquet").unlink()
    return folder


def test_a_data_set_is_read_shard_by_shard(training_folder):
    (source,) = find_sources([f"hub:{training_folder}"])
    assert source.name == f"hub:{training_folder}::train"
    assert (source.format, source.text_column, source.size) == ("hub", "body", 0)
    parts = split_source(source, 1)
    assert [(part.start, part.stop) for part in parts] == [(0, 1), (1, 2)]
    assert count_hub_shards(source) == 2
    found = [[(d.sentences[0], d.line) for d in read_part(part)] for part in parts]
    assert found == [
        [(f"Row {index}.{row} is here.", row + 1) for row in range(3 + index)] for index in range(2)
    ]
    plain = datasets.load_dataset(str(training_folder), split="train", streaming=True)
    assert [" ".join(d.sentences) for d in read_source(source)] == [row["body"] for row in plain]


def test_configuration_and_split_can_be_named(folder):
    (folder / "test-00000-of-00001.parquet").rename(folder / "test.parquet")
    for path in folder.glob("train*"):
        path.unlink()
    source = find_hub_source(f"hub:{folder}:default:test", text_column=None)
    (document,) = read_hub(split_source(source, 1)[0])
    assert document.sentences == ("A test row.",) and source.text_column == "text"
    with pytest.raises(DataError, match="no column 'titel'.*Did you mean 'title'"):
        find_hub_source(f"hub:{folder}:default:test", text_column="titel")
    with pytest.raises(DataError, match="cannot be read from the Hugging Face Hub"):
        find_hub_source(f"hub:{folder}:default:nothing", text_column=None)


@pytest.mark.parametrize("given", ["hub:", "hub:a:b:c:d", "hub:a/b:c:"])
def test_a_name_of_another_form(given):
    with pytest.raises(ConfigError, match="expected hub:owner/name, or hub:owner/name:config"):
        find_sources([given])


def test_defaults_fill_the_name(monkeypatch):
    asked = []

    class Stream:
        features = None

        def __iter__(self):
            return iter([{"id": 1, "story": "Once."}])

    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or Stream())
    for given, name in [("o/n", "o/n::train"), ("o/n:c", "o/n:c:train"), ("o/n:c:s", "o/n:c:s")]:
        source = find_hub_source(f"hub:{given}", text_column=None)
        assert source.name == f"hub:{name}" and source.text_column == "story"
    assert [(args, options["split"]) for args, options in asked] == [
        (("o/n", None), "train"),
        (("o/n", "c"), "train"),
        (("o/n", "c"), "s"),
    ]
    assert all(options["streaming"] for _, options in asked)


def test_no_network_is_said_in_one_sentence(monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("Couldn't reach 'owner/name' on the Hub.\nA traceback line")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as info:
        find_sources(["hub:owner/name"])
    assert str(info.value) == (
        "hub:owner/name::train cannot be read from the Hugging Face Hub (ConnectionError: Couldn't "
        "reach 'owner/name' on the Hub): check the name, the configuration, the split and the "
        "network, or download its files on a machine with a network and give their folder as input."
    )


def test_a_stream_that_breaks_off_is_an_error(training_folder, monkeypatch):
    (source,) = find_sources([f"hub:{training_folder}"])
    part = split_source(source, 1)[1]

    def rows(self):
        yield {"body": "One."}
        raise OSError("connection reset")

    monkeypatch.setattr(datasets.IterableDataset, "__iter__", rows)
    stream = read_part(part)
    assert next(stream).sentences == ("One.",)
    with pytest.raises(DataError, match="OSError: connection reset"):
        next(stream)
