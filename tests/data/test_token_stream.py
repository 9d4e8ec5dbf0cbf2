import numpy as np
import pytest

from nlpapp.data.token_stream import StreamSteps, smallest_dtype, write_token_ids
from nlpapp.errors import ConfigError, DataError


def read_lanes(
    steps: StreamSteps, *, world_size: int = 1, accumulation: int = 1
) -> dict[str, list[list[int]]]:
    """Put the segments of each lane together again, over processes, micro-batches and steps."""
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for step in range(steps.num_steps(0)):
        row = 0
        for rank in range(world_size):
            batches = steps.micro_batches(
                0, step, rank=rank, world_size=world_size, accumulation=accumulation
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
    steps = StreamSteps(np.arange(1, 12, dtype=np.uint8), num_lanes=2, segment_length=3, start_id=0)
    assert (steps.num_steps(0), steps.num_trimmed, steps.num_predicted) == (2, 1, 10)
    (first,) = steps.micro_batches(0, 0, rank=0, world_size=1, accumulation=1)
    (second,) = steps.micro_batches(0, 1, rank=0, world_size=1, accumulation=1)
    assert first["input_ids"].tolist() == [[0, 1, 2], [5, 6, 7]]
    assert first["labels"].tolist() == [[1, 2, 3], [6, 7, 8]]
    assert second["input_ids"].tolist() == [[3, 4], [8, 9]]
    assert second["labels"].tolist() == [[4, 5], [9, 10]]


def test_evaluation_pads_and_loses_nothing():
    steps = StreamSteps(np.arange(1, 6), num_lanes=2, segment_length=2, start_id=0, keep_all=True)
    assert (steps.num_trimmed, steps.num_predicted) == (0, 5)
    lanes = read_lanes(steps)
    assert lanes["labels"] == [[1, 2, 3], [4, 5, -100]]
    assert lanes["input_ids"] == [[0, 1, 2], [3, 4, 0]]


@pytest.mark.parametrize(
    ("num_tokens", "num_lanes", "length"), [(100, 4, 7), (101, 4, 7), (97, 8, 5), (5, 8, 3)]
)
@pytest.mark.parametrize("keep_all", [False, True])
@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (2, 1), (2, 2), (1, 3)])
def test_every_token_is_predicted_once_in_order(
    num_tokens, num_lanes, length, keep_all, world_size, accumulation
):
    tokens = np.arange(10, 10 + num_tokens)
    if not keep_all and num_tokens < num_lanes * length:
        return
    steps = StreamSteps(
        tokens, num_lanes=num_lanes, segment_length=length, start_id=0, keep_all=keep_all
    )
    lanes = read_lanes(steps, world_size=world_size, accumulation=accumulation)
    predicted = [label for lane in lanes["labels"] for label in lane if label != -100]
    assert predicted == tokens[: steps.num_predicted].tolist()
    assert steps.num_predicted + steps.num_trimmed == num_tokens
    assert steps.num_trimmed < num_lanes if not keep_all else steps.num_trimmed == 0
    inputs = [
        i
        for row, labels in zip(lanes["input_ids"], lanes["labels"], strict=True)
        for i, label in zip(row, labels, strict=True)
        if label != -100
    ]
    assert inputs == [0, *tokens[: steps.num_predicted - 1].tolist()]


def test_sharing_out_lanes_changes_no_lane():
    steps = StreamSteps(np.arange(200), num_lanes=6, segment_length=8, start_id=0)
    assert read_lanes(steps) == read_lanes(steps, world_size=2, accumulation=2)


def test_more_lanes_than_tokens_leaves_no_empty_lane():
    steps = StreamSteps(np.arange(3), num_lanes=10, segment_length=4, start_id=0, keep_all=True)
    (batch,) = steps.micro_batches(0, 0, rank=0, world_size=1, accumulation=1)
    assert batch["labels"].tolist() == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("size", "dtype"),
    [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")],
)
def test_ids_take_the_smallest_type_that_holds_them(size, dtype):
    assert smallest_dtype(size) == np.dtype(dtype)


def test_ids_survive_the_disk_and_leave_nothing_beside(tmp_path):
    lines = [[5, 299, 1], [], [0, 1]]
    ids = write_token_ids(tmp_path / "cache" / "train.npy", iter(lines), 300)
    assert ids.tolist() == [5, 299, 1, 0, 1]
    assert ids.dtype == np.uint16 and isinstance(ids, np.memmap)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["train.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "cache" / "train.npy"), ids)


def test_an_error_while_writing_leaves_no_file(tmp_path):
    def lines():
        yield [1, 2]
        raise DataError("line 2: no")

    with pytest.raises(DataError, match="line 2"):
        write_token_ids(tmp_path / "train.npy", lines(), 10)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file where a folder is to be")
    with pytest.raises(DataError, match="could not write the ids of the text"):
        write_token_ids(tmp_path / "cache" / "train.npy", [[1]], 10)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(DataError, match="no token to write to .*valid.npy"):
        write_token_ids(tmp_path / "valid.npy", [[]], 10)
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
        StreamSteps(np.arange(20), num_lanes=4, segment_length=8, start_id=0, name="train.txt")
    with pytest.raises(ConfigError, match="at least 1"):
        StreamSteps(np.arange(20), num_lanes=0, segment_length=8, start_id=0)
