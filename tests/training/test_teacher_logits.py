import json

import numpy as np
import pytest
import torch
from torch import nn

from nlpapp.data.collate import attention_mask, pad_rows
from nlpapp.training.teacher_logits import cached_logits

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


def ask(path, teacher, rows=ROWS):
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


@pytest.mark.parametrize("change", ["teacher", "data", "order", "damaged key", "no rows"])
def test_logits_of_another_teacher_or_other_data_are_not_used(change, tmp_path):
    ask(tmp_path / "logits", Teacher())
    teacher, rows = Teacher(seed=change == "teacher"), list(ROWS)
    if change == "data":
        rows[5] = rows[5] + 1
    elif change == "order":
        rows = rows[::-1]
    elif change == "damaged key":
        (tmp_path / "logits.json").write_text('{"key"')
    elif change == "no rows":
        (tmp_path / "logits.npy").unlink()
    found = ask(tmp_path / "logits", teacher, rows)
    assert teacher.widths
    with torch.no_grad():
        expected = teacher.table(torch.from_numpy(rows[5])).sum(0)
    np.testing.assert_allclose(found[5], expected, atol=1e-6)


def test_a_cache_without_its_key_is_never_left_beside_new_rows(tmp_path, monkeypatch):
    ask(tmp_path / "logits", Teacher())
    monkeypatch.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match="disk full"):
        ask(tmp_path / "logits", Teacher(seed=1))
    assert not (tmp_path / "logits.json").exists()
    monkeypatch.undo()
    ask(tmp_path / "logits", Teacher(seed=1))
    assert json.loads((tmp_path / "logits.json").read_text())["rows"] == 150
