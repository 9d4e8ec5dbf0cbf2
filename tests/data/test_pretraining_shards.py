import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from nlpapp.data import corpus_text, pretraining_shards, shard_tasks
from nlpapp.data.corpus_text import TextOptions
from nlpapp.data.manifest import MANIFEST, UNFINISHED
from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.data.pretraining_instances import PretrainingOptions
from nlpapp.data.task_pool import TaskPool
from nlpapp.errors import ConfigError, DataError
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from tests.conftest import REPOSITORY
from tests.data.sample_data import CORPUS, SAMPLE, make_data

BLOCK = 20_000


@pytest.fixture(scope="module", autouse=True)
def small_ranges():
    """The sample corpus is small: several blocks need smaller ranges than a real corpus."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_text, "SMALLEST_RANGE", 4000)
        yield


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(SAMPLE / "tokenizer")


def write(folder, tokenizer, **more):
    return make_data(folder, tokenizer, **{"block_bytes": BLOCK} | more)


@pytest.fixture(scope="module")
def written(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "out"
    return folder, write(folder, tokenizer)


def contents(folder):
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.suffix in (".parquet", ".json")
    }


def test_the_folder_is_as_the_contract_says(written, tokenizer):
    folder, manifest = written
    shards = sorted(path.name for path in folder.glob("*.parquet"))
    count = len(shards)
    assert count > 3 and shards[1] == f"shard-00001-of-{count:05d}.parquet"
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", *shards]
    assert json.loads((folder / MANIFEST).read_text()) == manifest
    assert manifest["tokenizer_fingerprint"] == fingerprint(tokenizer)
    assert manifest["options"]["max_seq_length"] == 64
    assert manifest["options"]["max_predictions_per_seq"] == 10
    assert manifest["sources"][0]["bytes"] == CORPUS.stat().st_size


def test_what_goes_in_is_counted_and_nothing_is_lost(written, tokenizer):
    _, manifest = written
    texts = CORPUS.read_text(encoding="utf-8").strip().split("\n\n")
    sentences = [sentence for text in texts for sentence in text.split("\n")]
    encoded = tokenizer(sentences, add_special_tokens=False)["input_ids"]
    counts = manifest["counts"]
    assert counts["documents_read"] == counts["documents"] == len(texts)
    assert counts["sentences_read"] == counts["sentences"] == len(sentences)
    assert counts["tokens"] == sum(map(len, encoded))
    assert counts["unknown_tokens"] == 0 and counts["dropped_sentences_without_tokens"] == 0


def test_statistics_are_those_of_the_data(written):
    folder, manifest = written
    rows = [row for path in folder.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    tokens = sum(len(row["input_ids"]) for row in rows)
    figures = manifest["statistics"]
    assert manifest["counts"]["instances"] == len(rows) == sum(manifest["lengths"])
    share = sum(r["next_sentence_label"] for r in rows) / len(rows)
    assert figures["next_sentence_random_share"] == share == pytest.approx(0.5, abs=0.01)
    rate = sum(len(r["masked_lm_inputs"]) for r in rows) / tokens
    assert figures["mask_rate"] == rate == pytest.approx(0.15, abs=0.01)
    assert figures["mean_length"] == tokens / len(rows)
    size = sum(path.stat().st_size for path in folder.glob("*.parquet"))
    assert figures["bytes_per_token"] == size / tokens


def digests(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("*.parquet")}


def test_the_bytes_do_not_depend_on_the_number_of_workers(written, tokenizer, tmp_path):
    for workers in (1, 2, 8):
        with TaskPool(workers=workers) as pool:
            write(tmp_path / str(workers), tokenizer, pool=pool)
        assert contents(tmp_path / str(workers)) == contents(written[0])


def test_another_seed_gives_other_data(written, tokenizer, tmp_path):
    write(
        tmp_path / "other",
        tokenizer,
        options=PretrainingOptions(max_seq_length=64, dupe_factor=1, seed=7),
    )
    assert not set(digests(tmp_path / "other").values()) & set(digests(written[0]).values())


def test_eight_workers_on_eight_files_of_one_document(tokenizer, tmp_path):
    # dbiir/UER-py loses the last document of each worker's part: with these it makes no instance.
    words = SAMPLE.joinpath("corpus.txt").read_text(encoding="utf-8").split("\n\n")[:8]
    paths = [tmp_path / f"{number}.txt" for number in range(8)]
    for path, text in zip(paths, words, strict=True):
        path.write_text(text.strip(), encoding="utf-8")
    options = PretrainingOptions(max_seq_length=512, dupe_factor=1, objective="none")
    with TaskPool(workers=8) as pool:
        manifest = make_data(
            tmp_path / "out",
            tokenizer,
            inputs=paths,
            options=options,
            pool=pool,
            block_bytes=10_000,
        )
    assert manifest["counts"]["documents_read"] == manifest["counts"]["documents"] == 8
    assert [source["file"] for source in manifest["sources"]] == [str(path) for path in paths]
    data = PretrainingData.open(tmp_path / "out")
    sentences = sum(text.count("\n") + 1 for text in words)
    assert manifest["counts"]["sentences"] == sentences and len(data) >= 8


def test_uer_loses_the_last_document(tokenizer, tmp_path):
    path = tmp_path / "three.txt"
    path.write_text("The baker.\n\nThe garden.\n\nThe zebra", encoding="utf-8")
    options = PretrainingOptions(
        objective="none", max_seq_length=64, dupe_factor=1, masking="dynamic"
    )
    make_data(tmp_path / "out", tokenizer, inputs=[path], options=options)
    data = PretrainingData.open(tmp_path / "out")
    texts = {tokenizer.decode(data[i].input_ids[1:-1]) for i in range(len(data))}
    assert texts == {"the baker.", "the garden.", "the zebra"}


KILLED = """
import os, random, shutil, signal, sys, time
from pathlib import Path
from nlpapp.data import corpus_text
from nlpapp.data.task_pool import TaskPool
from nlpapp.text.wordpiece import load_tokenizer
from tests.data.sample_data import SAMPLE, make_data

corpus_text.SMALLEST_RANGE = 4000
folder, whole = Path(sys.argv[1]), Path(sys.argv[2])
tokenizer = load_tokenizer(SAMPLE / "tokenizer")
rng = random.Random(0)
killed, shards_seen = 0, set()

def begin():
    child = os.fork()
    if child == 0:
        with TaskPool(workers=2) as pool:
            make_data(folder, tokenizer, block_bytes=20_000, pool=pool)
        os._exit(0)
    return child

start = time.monotonic()
os.waitpid(begin(), 0)
whole_run = time.monotonic() - start  # How long that is depends on what else the machine does.
shutil.rmtree(folder)
while killed < 20:
    before, child, start = len(list(folder.glob("*.parquet"))), begin(), time.monotonic()
    if killed % 2:  # Random in time; the others come just after a shard, however fast the machine.
        time.sleep(rng.uniform(0, whole_run))
    while not killed % 2 and time.monotonic() - start < 2 * whole_run:
        if len(list(folder.glob("*.parquet"))) > before:
            break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for path in folder.glob("*.parquet"):
        assert path.read_bytes() == (whole / path.name).read_bytes(), path
    shards_seen.add(len(list(folder.glob("*.parquet"))))
    if (folder / "manifest.json").is_file():
        shutil.rmtree(folder)
    else:
        killed += 1
print(sorted(shards_seen))
"""


@pytest.mark.timeout(1200)
def test_killed_at_20_random_moments_it_goes_on(written, tokenizer, tmp_path):
    # Nothing half-written may ever be seen, and the end is that of an uninterrupted run.
    folder = tmp_path / "out"
    arguments = [sys.executable, "-c", KILLED, str(folder), str(written[0])]
    result = subprocess.run(
        arguments, cwd=REPOSITORY, capture_output=True, text=True, timeout=1200, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    # Some kills came between two shards.
    assert set(json.loads(result.stdout)) & set(range(1, len(written[1]["shards"])))
    write(folder, tokenizer)
    assert contents(folder) == contents(written[0])


class Stop(Exception):
    """Stands for a kill, at a moment of the test's choice."""


def counted(monkeypatch, module, name, *, stop_at=None):
    """Count the calls of a function, and raise `Stop` in place of one of them."""
    original, calls = getattr(module, name), []

    def counting(*arguments, **options):
        calls.append(arguments)
        if len(calls) == stop_at:
            raise Stop
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, counting)
    return calls


def test_finished_shards_are_not_made_again(written, tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    count = len(written[1]["shards"])
    with monkeypatch.context() as patch:
        counted(patch, pretraining_shards, "write_shard", stop_at=3)
        with pytest.raises(Stop):
            write(folder, tokenizer)
    assert len(list(folder.glob("*.parquet"))) == 2
    with pytest.raises(DataError, match="is not finished"):
        PretrainingData.open(folder)
    calls = counted(monkeypatch, pretraining_shards, "write_shard")
    write(folder, tokenizer)
    assert len(calls) == count - 2 and contents(folder) == contents(written[0])


def test_a_kill_before_the_manifest_does_no_harm(written, tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        counted(patch, pretraining_shards, "write_manifest", stop_at=1)
        with pytest.raises(Stop):
            write(folder, tokenizer)
    calls = counted(monkeypatch, pretraining_shards, "write_shard")
    write(folder, tokenizer)
    assert not calls and contents(folder) == contents(written[0])


def test_a_full_disk_leaves_nothing_half_written(written, tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    write_table, calls = pq.ParquetWriter.write_table, []

    def filling(self, table, *arguments, **options):
        calls.append(table)
        write_table(self, table, *arguments, **options)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shard_tasks.pq.ParquetWriter, "write_table", filling)
        with pytest.raises(DataError, match="the disk is full.*finished shards are kept"):
            write(folder, tokenizer)
    assert len(list(folder.glob("*.parquet"))) == 2
    assert not list(folder.rglob("*.partial"))
    write(folder, tokenizer)
    assert contents(folder) == contents(written[0])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount")
def test_a_really_full_disk(tokenizer, tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", tmp_path]).returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        with (
            TaskPool(workers=2) as pool,
            pytest.raises(DataError, match="the disk is full"),
        ):
            write(tmp_path / "out", tokenizer, pool=pool)
        assert not list(tmp_path.rglob("*.partial"))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_only_a_damaged_shard_is_made_again(written, tokenizer, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    shutil.copytree(written[0], folder)
    paths = sorted(folder.glob("*.parquet"))
    content = bytearray(paths[2].read_bytes())
    content[len(content) // 2] ^= 1
    paths[2].write_bytes(bytes(content))
    paths[0].unlink()
    calls = counted(monkeypatch, pretraining_shards, "write_shard")
    write(folder, tokenizer)
    assert [task.index for _, task, _ in calls] == [0, 2]
    assert contents(folder) == contents(written[0])
    calls.clear()
    reads = counted(monkeypatch, pretraining_shards, "put_text_aside")
    write(folder, tokenizer)
    assert not calls and not reads  # Complete: nothing is read.


def test_data_of_other_options_or_text_is_refused(written, tokenizer, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(written[0], folder)
    before = contents(folder)
    with pytest.raises(ConfigError, match="max_seq_length: 64 there, 32 now"):
        write(folder, tokenizer, options=PretrainingOptions(max_seq_length=32, dupe_factor=1))
    with pytest.raises(ConfigError, match="min_document_characters: 0 there, 9 now"):
        write(folder, tokenizer, text_options=TextOptions(min_document_characters=9))
    other = tmp_path / "other.txt"
    other.write_text("One.\nTwo.\n\nThree.\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="the content of the input files"):
        write(folder, tokenizer, inputs=[other])
    # As long as the first, and other all the same.
    other.write_text(CORPUS.read_text(encoding="utf-8").replace("a", "b"), encoding="utf-8")
    with pytest.raises(ConfigError, match="the content of the input files"):
        write(folder, tokenizer, inputs=[other])
    assert contents(folder) == before
    # The same text, written anew, is the same.
    other.write_bytes(CORPUS.read_bytes())
    write(folder, tokenizer, inputs=[other])
    assert digests(folder) == digests(written[0])


def test_an_unfinished_run_refuses_changed_text(tokenizer, tmp_path, monkeypatch):
    path, folder = tmp_path / "corpus.txt", tmp_path / "out"
    path.write_bytes(CORPUS.read_bytes())
    with monkeypatch.context() as patch:
        counted(patch, pretraining_shards, "write_shard", stop_at=2)
        with pytest.raises(Stop):
            write(folder, tokenizer, inputs=[path])
    path.write_text(CORPUS.read_text(encoding="utf-8").replace("a", "b"), encoding="utf-8")
    with pytest.raises(ConfigError, match="the content of the input files"):
        write(folder, tokenizer, inputs=[path])
    assert (folder / UNFINISHED).is_dir() and len(list(folder.glob("*.parquet"))) == 1


@pytest.mark.parametrize("text", ["One is here.\nTwo is here.\n", "Same.\n\nSame.\n"])
def test_one_document_has_no_random_sentences(tokenizer, tmp_path, text):
    path = tmp_path / "one.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="blank line between documents.*objective: sop or none"):
        make_data(tmp_path / "out", tokenizer, inputs=[path])
    for objective in ("sop", "none"):
        options = PretrainingOptions(max_seq_length=64, dupe_factor=1, objective=objective)
        manifest = make_data(tmp_path / objective, tokenizer, inputs=[path], options=options)
        assert manifest["counts"]["instances"]


def test_duplicates_are_counted_and_dropped_if_asked_for(tokenizer, tmp_path):
    path = tmp_path / "corpus.txt"
    texts = CORPUS.read_text(encoding="utf-8").strip().split("\n\n")
    path.write_text("\n\n".join(texts + texts[:30]), encoding="utf-8")
    kept = write(tmp_path / "kept", tokenizer, inputs=[path])["counts"]
    assert kept["duplicate_documents"] == 30 and kept["documents"] == len(texts) + 30
    dropped = write(
        tmp_path / "dropped",
        tokenizer,
        inputs=[path],
        text_options=TextOptions(drop_duplicates=True),
    )["counts"]
    assert dropped["duplicate_documents"] == dropped["dropped_documents_duplicate"] == 30
    assert dropped["documents"] == len(texts) and dropped["documents_read"] == len(texts) + 30
    assert dropped["tokens"] < kept["tokens"]


@pytest.mark.parametrize("objective", ["nsp", "none"])
def test_what_is_read_is_used_or_dropped_for_a_reason(tokenizer, tmp_path, objective):
    path = tmp_path / "corpus.txt"
    texts = CORPUS.read_text(encoding="utf-8").strip().split("\n\n")
    more = ["\u200b" * 20 + "\n\u2060\n", "a" + "\u200b" * 20, "No.\nYes.", *texts[:9]]
    path.write_text("\n\n".join(texts + more), encoding="utf-8")
    options = PretrainingOptions(max_seq_length=64, dupe_factor=1, objective=objective)
    chosen = TextOptions(min_document_characters=10, drop_duplicates=True)
    counts = write(
        tmp_path / "out", tokenizer, inputs=[path], options=options, text_options=chosen
    )["counts"]
    for what in ("documents", "sentences"):
        dropped = [number for name, number in counts.items() if name.startswith(f"dropped_{what}_")]
        assert counts[f"{what}_read"] == counts[what] + sum(dropped) > counts[what]
    assert counts["dropped_sentences_short"] == 2
    assert counts["dropped_sentences_duplicate"] == sum(t.count("\n") + 1 for t in texts[:9])
    assert counts["dropped_sentences_without_pair"] == int(objective == "nsp")


def test_text_that_gives_no_instance(tokenizer, tmp_path):
    path = tmp_path / "letters.txt"
    path.write_text("a\n\nb\n\nc\n", encoding="utf-8")
    with pytest.raises(DataError, match="None of the 3 documents has two tokens.*txt, line 1"):
        make_data(tmp_path / "out", tokenizer, inputs=[path])
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_an_empty_corpus(tokenizer, tmp_path):
    path = tmp_path / "blank.txt"
    path.write_text("\n \n\t\n", encoding="utf-8")
    with pytest.raises(DataError, match="blank lines"):
        make_data(tmp_path / "out", tokenizer, inputs=[path])
    path.write_text("Short.\n\nShort too.\n", encoding="utf-8")
    with pytest.raises(DataError, match="All 2 documents are shorter than min_document_characters"):
        make_data(
            tmp_path / "out2",
            tokenizer,
            inputs=[path],
            text_options=TextOptions(min_document_characters=100),
        )


def test_a_line_of_ten_megabytes(tokenizer, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("one short document.\n\n" + "word " * 2_000_000 + "\n", encoding="utf-8")
    options = PretrainingOptions(dupe_factor=1, masking="dynamic")
    manifest = make_data(tmp_path / "out", tokenizer, inputs=[path], options=options)
    tokens = len(tokenizer("word", add_special_tokens=False)["input_ids"]) * 2_000_000
    assert manifest["counts"]["tokens"] > tokens and manifest["counts"]["sentences_cut_up"] == 1
    assert manifest["statistics"]["next_sentence_random_share"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("shape", [(100, 1), (100, 3), (400, 12)])
def test_half_of_the_pairs_are_random_from_a_hundred_documents_on(tokenizer, tmp_path, shape):
    rng = random.Random(1)
    words = CORPUS.read_text(encoding="utf-8").split()
    documents = [
        "\n".join(" ".join(rng.choices(words, k=rng.randint(4, 20))) for _ in range(shape[1]))
        for _ in range(shape[0])
    ]
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(documents), encoding="utf-8")
    options = PretrainingOptions(dupe_factor=5, masking="dynamic")
    manifest = make_data(
        tmp_path / "out", tokenizer, inputs=[path], options=options, block_bytes=10_000
    )
    assert manifest["statistics"]["next_sentence_random_share"] == pytest.approx(0.5, abs=0.01)
    assert manifest["counts"]["pairs_without_random_text"] == 0


def test_real_text(shared_data, tmp_path):
    tokenizer = load_tokenizer(shared_data / "bert" / "uncased_en_vocab.txt")
    sample = shared_data / "bert" / "sample_text.txt"
    manifest = make_data(tmp_path, tokenizer, inputs=[sample], options=PretrainingOptions())
    assert manifest["counts"]["documents"] == 3 and manifest["counts"]["instances"] > 30
