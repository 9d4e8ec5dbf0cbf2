import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from nlpapp.data import shard_tasks
from nlpapp.data.corpus_plan import CorpusPlan
from nlpapp.data.corpus_text import TextOptions
from nlpapp.data.manifest import UNFINISHED
from nlpapp.data.pretraining_instances import PretrainingOptions, SpecialIds, list_array
from nlpapp.data.pretraining_shards import prepare_text
from nlpapp.data.shard_tasks import ShardContext, make_instances, shard_writer, write_shard
from nlpapp.data.task_pool import TaskPool
from nlpapp.errors import DataError
from nlpapp.text.sources import find_sources
from nlpapp.text.word_encoding import plain_encoder
from nlpapp.text.wordpiece import load_tokenizer
from tests.data.sample_data import CORPUS


@pytest.fixture
def planned(tmp_path, tiny_tokenizer_folder):
    """A context and a plan over the sample corpus; blocks of some 20 kB."""
    options = PretrainingOptions(max_seq_length=48, dupe_factor=2)
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    sources = find_sources([str(CORPUS)], input_format="lines")
    corpus = prepare_text(tmp_path / "text", sources, TextOptions(), TaskPool(workers=1))
    (tmp_path / "out" / UNFINISHED).mkdir(parents=True)
    context = ShardContext(
        folder=str(tmp_path / "out"),
        text_folder=corpus.folder,
        tokenizer=plain_encoder(tokenizer).to_str(),
        special=SpecialIds.of(tokenizer, options),
        options=options,
        marker=None,
    )
    return context, CorpusPlan(corpus, seed=0, block_bytes=20_000)


def no_report(num_bytes, num_tokens):
    pass


def test_a_shard_and_its_record_agree(planned):
    context, plan = planned
    reported = Counter()

    def report(num_bytes, num_tokens):
        reported.update(bytes=num_bytes, tokens=num_tokens)

    record = write_shard(context, plan[0], report)
    path = Path(context.folder) / record["file"]
    rows = pq.read_table(path).to_pylist()
    lengths = [len(row["input_ids"]) for row in rows]
    assert record["counts"]["instances"] == len(rows)
    assert record["lengths"] == np.bincount(lengths, minlength=49).tolist()
    assert record["bytes"] == path.stat().st_size
    assert record["counts"]["masked_tokens"] == sum(len(row["masked_lm_inputs"]) for row in rows)
    assert record["counts"]["random_next"] == sum(row["next_sentence_label"] for row in rows)
    assert reported == {
        "bytes": record["counts"]["text_bytes"],
        "tokens": record["counts"]["tokens"],
    }
    kept = json.loads((Path(context.folder) / UNFINISHED / "shard-00000.json").read_text())
    assert kept == record


def test_a_shard_loads_with_datasets(planned, tmp_path):
    context, plan = planned
    record = write_shard(context, plan[0], no_report)
    path = str(Path(context.folder) / record["file"])
    loaded = load_dataset(
        "parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.to_list() == pq.read_table(path).to_pylist()


def test_text_of_several_passes_is_in_a_shard_once(tmp_path):
    """Passes far apart are compressed together: a small page would hold one of them only."""
    ids = np.random.default_rng(0).integers(0, 30_000, 400_000).astype(np.uint16)
    sizes = []
    for passes in (1, 3):
        rows = list_array(np.tile(ids, passes), np.arange(0, passes * len(ids) + 1, 100))
        table = pa.table({"input_ids": rows})
        with shard_writer(tmp_path / "shard", table.schema) as writer:
            writer.write_table(table)
        sizes.append((tmp_path / "shard").stat().st_size)
    assert sizes[0] > 1.8 * len(ids) and sizes[1] < 1.1 * sizes[0]


def test_nothing_is_left_of_a_shard_that_fails(planned, monkeypatch):
    context, plan = planned
    build, calls = shard_tasks.build_table, []

    def failing(*arguments):
        calls.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(shard_tasks, "build_table", failing)
    with pytest.raises(KeyboardInterrupt):
        write_shard(context, plan[0], no_report)
    assert [p.name for p in Path(context.folder).rglob("*")] == [UNFINISHED]
    monkeypatch.setattr(shard_tasks, "build_table", build)
    write_shard(context, plan[0], no_report)


def test_a_document_that_cannot_be_used_is_named_by_source_and_line(planned, monkeypatch):
    context, plan = planned
    lines = CORPUS.read_text(encoding="utf-8").split("\n")
    place = next(n for n, line in enumerate(lines) if n > 300 and line and not lines[n - 1])
    sentence = lines[place + 1].encode()

    class Failing(shard_tasks.LineEncoder):
        def encode(self, text):
            if sentence in text:
                raise ValueError("no such luck")
            return super().encode(text)

    shard_tasks._encoder.cache_clear()
    monkeypatch.setattr(shard_tasks, "LineEncoder", Failing)
    try:
        with pytest.raises(DataError) as caught:
            for shard in plan:
                for block in shard.blocks:
                    make_instances(context, block)
    finally:
        shard_tasks._encoder.cache_clear()
    assert str(CORPUS) in str(caught.value) and f"document at line {place + 1}" in str(caught.value)
    assert "ValueError: no such luck" in str(caught.value)
