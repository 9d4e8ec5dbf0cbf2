import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from nlpapp.data.collate import attention_mask, pad_rows
from nlpapp.training import teacher_logits
from nlpapp.training.teacher_logits import cached_logits, weights_hash

ROWS = [np.arange(1, 2 + index % 7) for index in range(150)]


class Teacher(nn.Module):
    """Logits that depend on every token, and a count of how often it was asked."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(10, 3)
        self.widths = []

    def forward(self, batch):
        self.widths.append(batch["input_ids"].shape[1])
        mask = batch["attention_mask"][:, :, None]
        return (self.table(batch["input_ids"]) * mask).sum(1)


class Killed(Exception):
    pass


def killed_after(teacher, batches):
    """Have ``teacher`` stop in the middle, as a killed process does."""
    forward = teacher.forward

    def until_killed(batch):
        if len(teacher.widths) == batches:
            raise Killed
        return forward(batch)

    teacher.forward = until_killed
    return teacher


def ask(path, teacher, rows=ROWS, *, shared=False):
    def collate(indices, epoch):
        part = [rows[index] for index in indices]
        return {"input_ids": pad_rows(part, 0), "attention_mask": attention_mask(part)}

    return cached_logits(
        path,
        model=teacher,
        forward=lambda model, batch: model(batch),
        collate=collate,
        token_ids=rows,
        lengths=np.array([len(row) for row in rows]),
        batch_size=4,
        shared=shared,
    )


@torch.no_grad()
def test_rows_are_in_the_order_of_the_examples_though_asked_by_length(tmp_path):
    teacher = Teacher()
    found = ask(tmp_path / "logits", teacher)
    expected = torch.stack([teacher.table(torch.from_numpy(row)).sum(0) for row in ROWS])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert teacher.widths == sorted(teacher.widths, reverse=True) and len(teacher.widths) == 38


def test_a_second_time_the_teacher_is_not_asked(tmp_path):
    first = np.array(ask(tmp_path / "logits", Teacher()))
    again = Teacher()
    found = ask(tmp_path / "logits", again)
    assert not again.widths and isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, first)


@pytest.mark.parametrize("change", ["teacher", "data", "order", "damaged record", "no rows"])
def test_logits_of_another_teacher_or_other_data_are_not_used(change, tmp_path, caplog):
    ask(tmp_path / "logits", Teacher())
    teacher, rows = Teacher(seed=change == "teacher"), list(ROWS)
    if change == "data":
        rows[5] = rows[5] + 1
    elif change == "order":
        rows = rows[::-1]
    elif change == "damaged record":
        (tmp_path / "logits.json").write_text('{"teacher"')
    elif change == "no rows":
        (tmp_path / "logits.npy").unlink()
    found = ask(tmp_path / "logits", teacher, rows)
    assert teacher.widths
    named = {"teacher": "another teacher,", "data": "another data,", "order": "another data,"}
    assert named.get(change, "") in caplog.text
    with torch.no_grad():
        expected = teacher.table(torch.from_numpy(rows[5])).sum(0)
    np.testing.assert_allclose(found[5], expected, atol=1e-6)


def test_what_a_killed_run_has_computed_is_not_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_logits, "CHUNK_BATCHES", 5)
    whole = np.array(ask(tmp_path / "whole", Teacher()))
    asked = 0
    for batches in (3, 7, 10, 11):  # each is killed in the middle of a chunk, or at its end
        teacher = killed_after(Teacher(), batches)
        with pytest.raises(Killed):
            ask(tmp_path / "logits", teacher)
        asked += len(teacher.widths) // 5 * 5
        with open(tmp_path / "logits.rows", "ab") as file:
            file.write(b"half of a row")
    teacher = Teacher()
    np.testing.assert_array_equal(ask(tmp_path / "logits", teacher), whole)
    assert asked == 25 and len(teacher.widths) == 38 - 25
    left = sorted(path.name for path in tmp_path.glob("logits*"))
    assert left == ["logits.json", "logits.lock", "logits.npy"]


def test_of_two_runs_at_once_one_asks_and_the_other_waits_for_it(tmp_path, caplog):
    caplog.set_level("INFO")
    first, second = Teacher(), Teacher()
    is_asked, may_answer = threading.Event(), threading.Event()
    forward = first.forward

    def answer_when_allowed(batch):
        is_asked.set()
        assert may_answer.wait(60)
        return forward(batch)

    first.forward = answer_when_allowed
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(ask, tmp_path / "all", first, shared=True)
        assert is_asked.wait(60)
        other = threads.submit(ask, tmp_path / "all", second, shared=True)
        while "waiting for it" not in caplog.text:
            assert not other.done()
            time.sleep(0.01)
        may_answer.set()
        np.testing.assert_array_equal(one.result(), other.result())
    assert len(first.widths) == 38 and not second.widths


def test_a_run_killed_after_its_last_row_asks_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        ask(tmp_path / "logits", Teacher())
    monkeypatch.undo()
    teacher = Teacher()
    found = ask(tmp_path / "logits", teacher)
    assert not teacher.widths
    np.testing.assert_array_equal(found, ask(tmp_path / "other", Teacher()))


@pytest.mark.parametrize("change", ["teacher", "data"])
def test_the_rows_of_a_killed_run_are_not_used_for_another(change, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(teacher_logits, "CHUNK_BATCHES", 5)
    with pytest.raises(Killed):
        ask(tmp_path / "logits", killed_after(Teacher(), 12))
    rows = ROWS if change == "teacher" else ROWS[::-1]
    other = Teacher(seed=change == "teacher")
    with pytest.raises(Killed):  # before its first record
        ask(tmp_path / "logits", killed_after(other, 2), rows)
    assert f"another {change}" in caplog.text
    again = Teacher()
    np.testing.assert_array_equal(
        ask(tmp_path / "logits", again), ask(tmp_path / "whole", Teacher())
    )
    assert len(again.widths) == 38


def test_a_record_is_never_left_beside_rows_of_another(tmp_path, monkeypatch):
    ask(tmp_path / "logits", Teacher())
    monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        ask(tmp_path / "logits", Teacher(seed=1))
    assert not (tmp_path / "logits.json").exists()
    monkeypatch.undo()
    ask(tmp_path / "logits", Teacher(seed=1))
    assert json.loads((tmp_path / "logits.json").read_text())["rows"] == 150


def test_the_weights_hash_tells_models_apart_in_any_precision():
    assert weights_hash(Teacher()) == weights_hash(Teacher()) != weights_hash(Teacher(seed=1))
    half = Teacher().to(torch.bfloat16)
    assert (
        weights_hash(half) == weights_hash(Teacher().to(torch.bfloat16)) != weights_hash(Teacher())
    )


def test_a_shared_folder_keeps_the_logits_of_each_teacher_and_each_data(tmp_path):
    teachers = [Teacher(seed=0), Teacher(seed=1)]
    sets = [ROWS, ROWS[:20]]
    first = [
        np.array(ask(tmp_path / "all", one, rows, shared=True)) for one in teachers for rows in sets
    ]
    assert len(list((tmp_path / "all").glob("*.npy"))) == 4
    for teacher in teachers:
        teacher.widths.clear()
    again = [ask(tmp_path / "all", one, rows, shared=True) for one in teachers for rows in sets]
    assert not teachers[0].widths and not teachers[1].widths
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(first[2], ask(tmp_path / "own", Teacher(seed=1)))
