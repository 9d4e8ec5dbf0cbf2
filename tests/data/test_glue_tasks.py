import logging

import pyarrow
import pyarrow.parquet
import pytest

from nlpapp.data.glue_tasks import TASKS, get_task, has_split, read_task
from nlpapp.errors import ConfigError, DataError
from tests.conftest import REPOSITORY

SAMPLE = REPOSITORY / "data" / "sample" / "glue"
OFFICIAL_ROWS = {
    # GLUE's paper and the server's README; test counts are those the server checks.
    "cola": (8551, 1043, 1063),
    "sst2": (67349, 872, 1821),
    "mrpc": (3668, 408, 1725),
    "stsb": (5749, 1500, 1379),
    "qqp": (363846, 40430, 390965),
    "qnli": (104743, 5463, 5463),
    "rte": (2490, 277, 3000),
    "wnli": (635, 71, 146),
}


def put(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_table_is_consistent():
    for task in TASKS.values():
        assert len(task.labels) == len(task.label_words)
        assert not task.labels or task.majority in task.label_words
        assert set(task.server_files) <= set(task.rows)
        assert len(task.hub_columns) in (0, len(task.columns))
    for name, (train, dev, test) in OFFICIAL_ROWS.items():
        assert TASKS[name].rows == {"train": train, "dev": dev, "test": test}
    files = {file for task in TASKS.values() for file in task.server_files.values()}
    names = ["AX", "CoLA", "MNLI-m", "MNLI-mm", "MRPC", "QNLI", "QQP", "RTE", "SST-2", "STS-B"]
    assert files == {f"{name}.tsv" for name in [*names, "WNLI"]}


def test_names_are_forgiving_and_unknown_ones_get_the_nearest():
    assert get_task("SST-2") is TASKS["sst2"]
    assert get_task("STS_B") is TASKS["stsb"]
    with pytest.raises(ConfigError, match="no task 'mprc'.*Did you mean 'mrpc'"):
        get_task("mprc")


def test_sample_cola_has_no_header_but_its_test_file_has():
    train = read_task(TASKS["cola"], SAMPLE, "train")
    assert (len(train), train.label_names) == (96, ("unacceptable", "acceptable"))
    assert sorted(set(train.labels.tolist())) == [0, 1]
    test = read_task(TASKS["cola"], SAMPLE, "test")
    assert (len(test), test.labels) == (16, None)


def test_sample_mrpc_byte_order_mark_and_bare_quotes():
    train = read_task(TASKS["mrpc"], SAMPLE, "train")
    assert len(train) == 96
    assert train.texts_b[0].startswith('" ')


def test_sample_stsb_has_scores():
    dev = read_task(TASKS["stsb"], SAMPLE, "dev")
    assert dev.label_names == ()
    assert 0 <= dev.labels.min() <= dev.labels.max() <= 5


def test_columns_are_named_not_counted(tmp_path):
    put(tmp_path, "SST-2/dev.tsv", "label\tsentence\n1\tfine\n")
    examples = read_task(TASKS["sst2"], tmp_path, "dev")
    assert (examples.texts_a, examples.labels.tolist()) == (["fine"], [1])


def test_mnli_words_follow_the_hubs_order(tmp_path):
    header = "index\tsentence1\tsentence2\tlabel1\tgold_label\n"
    rows = "".join(
        f"{index}\tp\th\tx\t{label}\n"
        for index, label in enumerate(["contradiction", "entailment", "neutral"])
    )
    put(tmp_path, "mnli/dev_matched.tsv", header + rows)
    assert read_task(TASKS["mnli"], tmp_path, "dev_matched").labels.tolist() == [2, 0, 1]
    assert has_split(TASKS["mnli"], tmp_path, "dev_matched")
    assert not has_split(TASKS["mnli"], tmp_path, "dev_mismatched")


def test_broken_row_is_refused_and_named(tmp_path):
    path = put(tmp_path, "RTE/train.tsv", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\n")
    with pytest.raises(DataError) as error:
        read_task(TASKS["rte"], tmp_path, "train")
    assert f"{path}, line 2: found 3 columns, expected 4" in str(error.value)


def test_broken_rows_of_qqp_are_left_out_and_counted(tmp_path, caplog):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    put(tmp_path, "QQP/train.tsv", header + "1\t2\t3\ta?\tb?\t1\n4\t5\t6\tonly\n7\t8\t9\tc\td\t0\n")
    with caplog.at_level(logging.WARNING):
        examples = read_task(TASKS["qqp"], tmp_path, "train")
    assert examples.labels.tolist() == [1, 0]
    assert "left out 1 rows with a wrong number of columns (lines 3); kept 2" in caplog.text


def test_partial_set_is_allowed_with_both_counts(caplog):
    with caplog.at_level(logging.WARNING):
        read_task(TASKS["sst2"], SAMPLE, "dev")
    assert "holds 32 rows, the official dev set of sst2 872" in caplog.text


def test_more_rows_than_the_official_set_are_named_too(tmp_path, caplog):
    put(tmp_path, "WNLI/dev.tsv", "sentence1\tsentence2\tlabel\n" + "a\tb\t1\n" * 72)
    with caplog.at_level(logging.WARNING):
        read_task(TASKS["wnli"], tmp_path, "dev")
    assert "holds 72 rows, the official dev set of wnli 71" in caplog.text


def test_unknown_label_names_the_line(tmp_path):
    put(tmp_path, "SST-2/dev.tsv", "sentence\tlabel\na\t1\nb\t2\n")
    with pytest.raises(DataError, match="line 3: label '2' is not one of '0', '1'"):
        read_task(TASKS["sst2"], tmp_path, "dev")


def test_absent_folder_file_and_split_say_what_to_give(tmp_path):
    with pytest.raises(DataError, match="there is no such folder.*nyu-mll/glue"):
        read_task(TASKS["cola"], tmp_path / "nothing", "dev")
    put(tmp_path, "SST-2/dev.tsv", "")
    with pytest.raises(DataError, match="no CoLA/dev.tsv, nor cola/validation.*there: SST-2"):
        read_task(TASKS["cola"], tmp_path, "dev")
    with pytest.raises(DataError, match="no RTE/train.tsv") as error:
        read_task(TASKS["rte"], tmp_path, "train")
    assert "does not look like GLUE" not in str(error.value)
    with pytest.raises(DataError, match=f"give the folder above it.*--data_dir {tmp_path}"):
        read_task(TASKS["sst2"], tmp_path / "SST-2", "dev")
    with pytest.raises(DataError, match="It does not look like GLUE"):
        read_task(TASKS["rte"], tmp_path / "SST-2", "train")
    with pytest.raises(ConfigError, match="no split 'dev'; there are train, dev_matched"):
        read_task(TASKS["mnli"], tmp_path, "dev")


def test_parquet_as_on_the_hub(tmp_path):
    folder = tmp_path / "mrpc"
    folder.mkdir()
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1, 0], "idx": [0, 1]}
    for part in range(2):
        pyarrow.parquet.write_table(
            pyarrow.table(rows), folder / f"validation-{part:05d}-of-00002.parquet"
        )
    pyarrow.parquet.write_table(
        pyarrow.table(rows | {"label": [-1, -1]}), folder / "test-00000-of-00001.parquet"
    )
    dev = read_task(TASKS["mrpc"], tmp_path, "dev")
    assert dev.texts_a == ["a", "b", "a", "b"]
    assert dev.texts_b == ["c", "d", "c", "d"]
    assert dev.labels.tolist() == [1, 0, 1, 0]
    assert dev.label_names == ("not_equivalent", "equivalent")
    assert read_task(TASKS["mrpc"], tmp_path, "test").labels is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"label": [1, 7]}, "row 2: label 7; task mrpc has the classes 0 to 1"),
        ({"label": [1, None]}, "row 2: 'label' is null"),
        ({"sentence2": [None, "d"]}, "row 1: 'sentence2' is null"),
    ],
)
def test_damaged_parquet_names_file_row_and_value(tmp_path, change, expected):
    rows = {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1, 0]} | change
    path = tmp_path / "mrpc" / "validation-00000-of-00001.parquet"
    path.parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.table(rows), path)
    with pytest.raises(DataError, match=f"{path}, {expected}.*nyu-mll/glue again"):
        read_task(TASKS["mrpc"], tmp_path, "dev")


def test_a_pointer_in_place_of_parquet_says_what_to_do(tmp_path):
    path = tmp_path / "mrpc" / "validation-00000-of-00001.parquet"
    path.parent.mkdir()
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(DataError, match=f"{path}: .*`git lfs pull`"):
        read_task(TASKS["mrpc"], tmp_path, "dev")


def test_hub_without_a_network_points_to_a_local_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="cannot read cola.*local folder"):
        read_task(TASKS["cola"], "nyu-mll/glue", "dev")


def test_real_files(shared_data):
    folder = shared_data / "glue_data"
    expected = {
        ("cola", "train"): [2528, 6023],
        ("cola", "dev"): [322, 721],
        ("sst2", "dev"): [428, 444],
        ("mrpc", "train"): [1194, 2474],
        ("mrpc", "dev"): [129, 279],
        ("qnli", "dev"): [2702, 2761],
        ("wnli", "dev"): [40, 31],
        ("mnli", "dev_matched"): [3479, 3123, 3213],
    }
    for (name, split), counts in expected.items():
        labels = read_task(TASKS[name], folder, split).labels
        assert [int((labels == index).sum()) for index in range(len(counts))] == counts
    assert len(read_task(TASKS["stsb"], folder, "train")) == 5749
    assert len(read_task(TASKS["ax"], folder, "test")) == 1104
