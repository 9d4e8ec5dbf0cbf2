"""The benchmarks of language models read the text of evaluate-lm, and `make bench` has them all."""

import json
import shutil
import subprocess

import pytest
import torch

from benchmarks import language_model_evaluation
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.models.pretrained import save_model_folder
from nlpapp.text.vocabulary import count_symbols
from tests.source_files import REPOSITORY

LINES = ["a cat sat", "", "a cat ran"]
SIZE = TransformerXLSizeConfig(num_layers=1, hidden_size=8, num_heads=1, inner_size=8, mem_len=8)


@pytest.mark.parametrize("kind", ["words", "characters"])
def test_the_end_of_each_line_is_scored(tmp_path, kind):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    vocabulary = count_symbols(kind, LINES)
    expected = [index for line in LINES for index in (*vocabulary.encode(line), vocabulary.end_id)]
    assert language_model_evaluation.read_ids(str(path), vocabulary).tolist() == expected


def test_a_trained_model_is_compared_on_its_text(tmp_path, capsys):
    vocabulary = count_symbols("words", LINES)
    fingerprint = vocabulary.fingerprint()
    torch.manual_seed(0)
    model = open_language_model(
        None, size=SIZE, vocab_size=len(vocabulary), fingerprint=fingerprint
    )
    save_model_folder(model, tmp_path / "model", tokenizer=vocabulary, fingerprint=fingerprint)
    (tmp_path / "text.txt").write_text("\n".join(LINES * 8) + "\n", encoding="utf-8")
    command = ["--model", str(tmp_path / "model"), "--text", str(tmp_path / "text.txt")]
    command += ["--lengths", "6", "--segment", "4", "--turns", "1", "--threads", "1"]
    language_model_evaluation.main(command)
    figures = json.loads(capsys.readouterr().out)
    assert figures["attention_length"] == 6 and figures["segment_length"] == 4
    assert figures["window_loss"] > 0 and figures["speed_up"] > 0


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_make_bench_compares_with_the_authors_code_where_it_is_given():
    given = ["BENCH_TRANSFORMER_XL=--original THEIRS", "BENCH_LANGUAGE_MODEL=--data TEXT"]

    def commands(*variables):
        printed = subprocess.run(
            ["make", "-n", "-C", REPOSITORY, "bench", *variables],
            capture_output=True,
            text=True,
            check=True,
        )
        return printed.stdout

    alone, compared = commands(), commands(*given)
    for name in ("language_model_evaluation.py", "language_model_generation.py"):
        assert name in alone
    assert "transformer_xl.py" not in alone and "language_model_budget.py" not in alone
    assert "transformer_xl.py --threads 1 --original THEIRS" in compared
    assert "language_model_budget.py --data TEXT" in compared
