import pytest

from nlpapp.data.augmentation import AugmentationConfig
from nlpapp.data.transfer_set import read_unlabeled
from nlpapp.errors import ConfigError
from nlpapp.recipes import augment

MASK_ALL = AugmentationConfig(n_iter=3, p_mask=1, p_ng=0)


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("sentence\tlabel\na good  film\t1\nbad\t0\n")
    return str(path)


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("sentence1\tsentence2\na b\tc\n")
    return str(path)


def config_for(tmp_path, **options):
    return augment.Config(output_dir=str(tmp_path / "run"), **options)


def test_the_new_texts_and_their_statistics_are_written(texts, tmp_path):
    config = config_for(tmp_path, file=texts, augmentation=MASK_ALL)
    metrics = augment.run(config)
    assert (tmp_path / "run" / "transfer.txt").read_text() == "[MASK] [MASK] [MASK]\n[MASK]\n"
    counted = {name: metrics[name] for name in ("rows", "drawn", "kept", "words", "masked_share")}
    assert counted == {"rows": 2, "drawn": 6, "kept": 2, "words": 12, "masked_share": 1}
    assert augment.run(config) == metrics


def test_what_is_written_of_pairs_is_what_distill_reads(pairs, tmp_path):
    augment.run(config_for(tmp_path, file=pairs, augmentation=MASK_ALL, mask_token="*"))
    found = read_unlabeled(tmp_path / "run" / "transfer.txt", pairs=True)
    assert found == [["* *", "a b", "* *"], ["c", "*", "*"]]


def test_what_is_made_of_an_empty_text_is_left_out(tmp_path):
    path = tmp_path / "holes.tsv"
    path.write_text("sentence1\tsentence2\na b\t \nc\td\n")
    metrics = augment.run(config_for(tmp_path, file=str(path), augmentation=MASK_ALL))
    found = read_unlabeled(tmp_path / "run" / "transfer.txt", pairs=True)
    assert found == [["[MASK]", "c", "[MASK]"], ["d", "[MASK]", "[MASK]"]]
    assert metrics["kept"] == 3 and metrics["drawn"] == 6


def test_labels_are_not_read_and_plain_text_is_a_column(tmp_path):
    path = tmp_path / "unlabelled.tsv"
    path.write_text("sentence\tlabel\na film\t\nbad\t0\n")
    assert augment.run(config_for(tmp_path, file=str(path), augmentation=MASK_ALL))["rows"] == 2
    path = tmp_path / "plain.txt"
    path.write_text("a film\nbad\n")
    options = {"file": str(path), "header": False, "text_column": "1", "augmentation": MASK_ALL}
    assert augment.run(config_for(tmp_path / "plain", **options))["rows"] == 2


def test_a_preview_shows_texts_beside_their_source_and_writes_nothing(texts, tmp_path, capsys):
    assert augment.run(config_for(tmp_path, file=texts, augmentation=MASK_ALL, preview=1)) == {}
    shown = capsys.readouterr().out
    assert shown == "\n=== row 1: a good  film\n  [MASK] [MASK] [MASK]\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either --task with --data_dir, or --file"),
        ({"file": "a.tsv", "task": "sst2"}, "either --task"),
        ({"task": "sst2"}, "go together"),
        ({"task": "sst2", "data_dir": "glue", "text_column": "x"}, "knows its columns"),
        ({"file": "a.tsv", "augmentation": AugmentationConfig(n_iter=0)}, "n_iter is 0"),
        ({"task": "sst2", "data_dir": "glue", "header": False}, "knows its files"),
        ({"file": "a.tsv", "workers": 0}, "workers is 0"),
        ({"file": "a.tsv", "preview": -1}, "preview -1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        config_for(tmp_path, **options)
