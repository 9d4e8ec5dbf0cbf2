"""Slots are each one's own, and free again when their process ends; a quiet worker still logs."""

import logging
import multiprocessing
import sys

import pytest

from nlpapp.recipes import glue_workers


def hold(folder, found, go):
    found.put(glue_workers.take_slot(folder, 2))
    go.wait(60)


def test_slots_are_taken_once_and_freed_by_the_end_of_a_process(tmp_path, monkeypatch):
    monkeypatch.setattr(glue_workers, "_held", [])
    fork = multiprocessing.get_context("fork")
    found, go = fork.Queue(), fork.Event()
    other = fork.Process(target=hold, args=(tmp_path, found, go))
    other.start()
    assert found.get(timeout=60) == 0
    assert glue_workers.take_slot(tmp_path, 2) == 1
    with pytest.raises(RuntimeError, match="all 2 slots"):
        glue_workers.take_slot(tmp_path, 2)
    other.kill()
    other.join()
    assert glue_workers.take_slot(tmp_path, 2) == 0
    for file in glue_workers._held:
        file.close()


def test_workers_go_round_the_gpus(tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setattr(glue_workers.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(glue_workers.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(glue_workers.torch.cuda, "set_device", chosen.append)
    held = []
    for _ in range(3):  # three workers, told by their locks
        monkeypatch.setattr(glue_workers, "_held", [])
        glue_workers.use_own_device(tmp_path, 3)
        glue_workers.use_own_device(tmp_path, 3)  # the next run of the same worker
        held += glue_workers._held
    assert chosen == [0, 1, 0]
    for file in held:
        file.close()


def test_quiet_keeps_the_console_clean_and_the_file_whole(tmp_path, capsys, caplog):
    logger = logging.getLogger("nlpapp")
    handler = logging.FileHandler(tmp_path / "train.log")
    logger.addHandler(handler)
    try:
        with glue_workers.quiet():
            print("a bar", file=sys.stderr)
            logger.warning("a line")
        logger.warning("aloud")
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert (tmp_path / "train.log").read_text() == "a line\naloud\n"
    assert "a bar" not in capsys.readouterr().err
    assert [record.message for record in caplog.records] == ["aloud"]
