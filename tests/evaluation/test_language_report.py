import json

import pytest

from nlpapp.evaluation.language_report import SampleTexts, leave_language_report


@pytest.fixture
def folder(tmp_path):
    """A run that has trained."""
    (tmp_path / "model").mkdir()
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "environment.json").write_text(json.dumps({"command": "train-lm", "seed": 1}))
    lines = [{"step": step, "split": "train", "loss": 5 - step} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def leave(folder, **metrics):
    figures = {"test_loss": 3.0, "test_perplexity": 20.1} | metrics
    leave_language_report(folder, metrics=figures, details={"vocabulary entries": 77})
    return (folder / "report.html").read_text(encoding="utf-8")


def test_texts_of_weights_evaluated_again_are_kept_once(tmp_path):
    samples = SampleTexts(tmp_path)
    assert samples.read() == []
    samples.add(5.0, "one\u2028line")
    samples.add(4.0, "two")
    SampleTexts(tmp_path).add(4.0, "two")  # the run goes on from a checkpoint before
    samples.add(3.0, "three")
    with open(tmp_path / "samples.jsonl", "a") as file:
        file.write('{"loss": 2.0, "te')  # killed while writing
    assert [row["text"] for row in samples.read()] == ["one\u2028line", "two", "three"]


def test_the_page_shows_texts_and_memories(folder):
    SampleTexts(folder).add(4.0, "the cat <sat>")
    page = leave(folder, test_perplexity_without_memory=30.5, test_perplexity_mem_len_128=19.25)
    assert "the cat &lt;sat&gt;" in page
    for text in ("as evaluated", "20.1", "without memory", "30.5", "mem len 128", "19.25"):
        assert text in page, text
    assert (folder / "plots" / "curves.png").is_file()
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "Transformer-XL" in card and "77" in card and "nlpapp generate --model" in card


def test_a_page_without_texts_or_memories_has_no_such_parts(folder):
    page = leave(folder)
    assert "What the memory is worth" not in page and ">Texts<" not in page
