import numpy as np
import pytest

from nlpapp.data.token_stream import (
    StreamSteps,
    check_training_length,
    encode_text,
    segment_borders,
    smallest_dtype,
    write_token_ids,
)
from nlpapp.errors import ConfigError, DataError
from nlpapp.text.language_text import LanguageText
from nlpapp.text.vocabulary import count_symbols


def read_lanes(
    steps: StreamSteps, *, epoch: int = 0, world_size: int = 1, accumulation: int = 1
) -> dict[str, list[list[int]]]:
    """Put the segments of each lane together again, over processes, micro-batches and steps."""
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for step in range(steps.num_steps(epoch)):
        row = 0
        for rank in range(world_size):
            batches = steps.micro_batches(
                epoch, step, rank=rank, world_size=world_size, accumulation=accumulation
            )
            for batch in batches:
                for index in range(len(batch["labels"])):
                    for name, lanes in rows.items():
                        if step == 0:
                            lanes.append([])
                        lanes[row].extend(batch[name][index].tolist())
                    row += 1
    return rows


def test_a_literal_example():
    """Eleven tokens in two lanes of six: the second lacks its last."""
    steps = StreamSteps(np.arange(1, 12, dtype=np.uint8), num_lanes=2, segment_length=4, start_id=0)
    assert steps.num_steps(0) == 2
    (first,) = steps.micro_batches(0, 0, rank=0, world_size=1, accumulation=1)
    (second,) = steps.micro_batches(0, 1, rank=0, world_size=1, accumulation=1)
    assert first["input_ids"].tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert first["labels"].tolist() == [[1, 2, 3, 4], [7, 8, 9, 10]]
    assert second["input_ids"].tolist() == [[4, 5], [10, 0]]
    assert second["labels"].tolist() == [[5, 6], [11, -100]]


@pytest.mark.parametrize(
    ("num_tokens", "num_lanes", "length"), [(100, 4, 7), (101, 4, 7), (97, 8, 5), (5, 8, 3)]
)
@pytest.mark.parametrize("options", [{}, {"shuffle_lanes": True, "variable_length": True}])
@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (2, 1), (2, 2), (1, 3)])
def test_every_token_is_predicted_once_from_the_one_before_it(
    num_tokens, num_lanes, length, options, world_size, accumulation
):
    tokens = np.arange(10, 10 + num_tokens)
    steps = StreamSteps(
        tokens, num_lanes=num_lanes, segment_length=length, start_id=0, seed=3, **options
    )
    lanes = read_lanes(steps, world_size=world_size, accumulation=accumulation)
    if options:
        order = np.argsort([lane[0] for lane in lanes["labels"]])
        lanes = {name: [rows[index] for index in order] for name, rows in lanes.items()}
    pairs = [
        pair
        for row, labels in zip(lanes["input_ids"], lanes["labels"], strict=True)
        for pair in zip(row, labels, strict=True)
        if pair[1] != -100
    ]
    assert pairs == list(zip([0, *tokens[:-1].tolist()], tokens.tolist(), strict=True))


@pytest.mark.parametrize("options", [{}, {"shuffle_lanes": True, "variable_length": True}])
def test_sharing_out_lanes_changes_no_lane(options):
    steps = StreamSteps(np.arange(200), num_lanes=6, segment_length=8, start_id=0, **options)
    assert read_lanes(steps) == read_lanes(steps, world_size=2, accumulation=2)


def test_each_epoch_has_segments_of_its_own():
    options = {"num_lanes": 6, "segment_length": 20, "start_id": 0, "seed": 1}
    tokens = np.arange(6000)
    steps = StreamSteps(tokens, shuffle_lanes=True, variable_length=True, **options)

    def epoch(steps, number):
        ranks = {"rank": 0, "world_size": 1, "accumulation": 1}
        return [
            steps.micro_batches(number, step, **ranks)[0]["labels"].tolist()
            for step in range(steps.num_steps(number))
        ]

    first, second = epoch(steps, 0), epoch(steps, 1)
    assert [row[0] for row in first[0]] != [row[0] for row in second[0]]
    assert list(map(len, (part[0] for part in first))) != list(
        map(len, (part[0] for part in second))
    )
    # An epoch is a function of (seed, epoch): what was read before does not matter.
    again = StreamSteps(tokens, shuffle_lanes=True, variable_length=True, **options)
    assert (epoch(again, 1), epoch(again, 0)) == (second, first)
    for batches in (first, second):
        labels = [label for batch in batches for row in batch for label in row]
        assert sorted(labels) == tokens.tolist()


@pytest.mark.parametrize("num_tokens", [60, 58])
@pytest.mark.parametrize("options", [{}, {"shuffle_lanes": True, "variable_length": True}])
@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (2, 2)])
def test_every_row_goes_round_the_text_without_a_gap(num_tokens, options, world_size, accumulation):
    """After as many epochs as there are lanes: the whole text, from where the row began."""
    tokens = np.arange(1, num_tokens + 1)
    steps = StreamSteps(tokens, num_lanes=6, segment_length=7, start_id=0, seed=2, **options)
    rows: list[list[int]] = [[] for _ in range(6)]
    for epoch in range(6):
        lanes = read_lanes(steps, epoch=epoch, world_size=world_size, accumulation=accumulation)
        for row, lane in zip(rows, lanes["labels"], strict=True):
            row.extend(label for label in lane if label != -100)
    begins = [row[0] for row in rows]
    assert sorted(begins) == [1, 11, 21, 31, 41, 51]
    assert (begins != sorted(begins)) == bool(options)
    for row in rows:
        assert row == [(row[0] + place - 1) % num_tokens + 1 for place in range(num_tokens)]


def test_lengths_of_segments_are_drawn_around_the_given_one():
    borders = segment_borders(100_000, 70, np.random.default_rng(0))
    lengths = np.diff(borders)
    assert (borders[0], borders[-1]) == (0, 100_000)
    assert lengths[:-1].min() >= 5 and lengths.max() <= 85
    long = lengths[lengths > 52]
    assert np.median(long) == pytest.approx(70, abs=1.5) and long.std() == pytest.approx(5, abs=1)
    assert (lengths < 52).mean() == pytest.approx(0.05, abs=0.02)
    assert segment_borders(10, 4).tolist() == [0, 4, 8, 10]
    assert segment_borders(8, 4).tolist() == [0, 4, 8]


def test_more_lanes_than_tokens_leaves_no_empty_lane():
    steps = StreamSteps(np.arange(3), num_lanes=10, segment_length=4, start_id=0)
    (batch,) = steps.micro_batches(0, 0, rank=0, world_size=1, accumulation=1)
    assert batch["labels"].tolist() == [[0], [1], [2]]


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text("a b\n\na c\n", encoding="utf-8")
    return LanguageText(str(tmp_path / "text.txt"))


def test_a_text_is_encoded_once_and_found_again(text, tmp_path, monkeypatch):
    vocabulary = count_symbols("words", text.lines())
    expected = [vocabulary.ids[word] for word in ["a", "b", "<eos>", "<eos>", "a", "c", "<eos>"]]
    assert encode_text(text, vocabulary, tmp_path / "cache").tolist() == expected
    monkeypatch.setattr(LanguageText, "encode", None)  # not called again
    ids = encode_text(text, vocabulary, tmp_path / "cache")
    assert ids.tolist() == expected and isinstance(ids, np.memmap)


def test_another_vocabulary_or_a_changed_text_is_encoded_anew(text, tmp_path):
    words = count_symbols("words", text.lines())
    characters = count_symbols("characters", text.lines())
    cache = tmp_path / "cache"
    assert len(encode_text(text, words, cache)) == 7
    assert len(encode_text(text, characters, cache)) == 9
    (tmp_path / "text.txt").write_text("a b a b\n", encoding="utf-8")
    changed = LanguageText(str(tmp_path / "text.txt"))
    assert len(encode_text(changed, words, cache)) == 5


def test_a_text_of_empty_lines_is_named(tmp_path):
    path = tmp_path / "empty.txt"
    path.write_text("\n" * 5)
    with pytest.raises(DataError, match="empty.txt has only empty lines"):
        encode_text(LanguageText(str(path)), count_symbols("words", ["a"]), tmp_path / "cache")


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")],
)
def test_ids_take_the_smallest_type_that_holds_them(size, dtype):
    assert smallest_dtype(size) == np.dtype(dtype)


def test_ids_survive_the_disk_and_leave_nothing_beside(tmp_path):
    lines = [[5, 299, 1], [], [0, 1]]
    ids = write_token_ids(tmp_path / "cache" / "train.npy", iter(lines), 300, name="text")
    assert ids.tolist() == [5, 299, 1, 0, 1]
    assert ids.dtype == np.uint16 and isinstance(ids, np.memmap)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["train.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "cache" / "train.npy"), ids)


def test_an_error_while_writing_leaves_no_file(tmp_path):
    def lines():
        yield [1, 2]
        raise DataError("line 2: no")

    with pytest.raises(DataError, match="line 2"):
        write_token_ids(tmp_path / "train.npy", lines(), 10, name="text")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file where a folder is to be")
    with pytest.raises(DataError, match="could not write the ids of the text"):
        write_token_ids(tmp_path / "cache" / "train.npy", [[1]], 10, name="text")


def test_bad_input_is_named(tmp_path):
    with pytest.raises(DataError, match="valid.txt is empty: it has no token"):
        write_token_ids(tmp_path / "valid.npy", [[]], 10, name="valid.txt")
    with pytest.raises(DataError, match="valid.txt is empty"):
        StreamSteps(
            np.array([], dtype=np.uint8),
            num_lanes=1,
            segment_length=2,
            start_id=0,
            name="valid.txt",
        )
    with pytest.raises(
        ConfigError, match="train.txt has 20 tokens, fewer than one batch of 4 lanes x 8"
    ):
        check_training_length(20, 4, 8, "train.txt")
    with pytest.raises(ConfigError, match="batch_size: 4 lanes are fewer than the 6 micro-batches"):
        check_training_length(20, 4, 5, "train.txt", shares=6)
    with pytest.raises(ConfigError, match="at least 1"):
        StreamSteps(np.arange(20), num_lanes=0, segment_length=8, start_id=0)
