import json

import pytest

from nlpapp.deployment.export import export_classifier
from nlpapp.deployment.torch_predictor import torch_predictor
from nlpapp.errors import ConfigError
from nlpapp.models.pretrained import save_model_folder
from nlpapp.recipes import benchmark
from tests.deployment.models import build_model, load_tokenizer

LABELS = {0: "bad", 1: "good"}


def test_models_and_bundles_are_timed_and_scored(tiny_tokenizer_folder, tmp_path, capsys):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    model = build_model("bilstm", labels=LABELS)
    save_model_folder(model, tmp_path / "small" / "model", tokenizer=tokenizer)
    export_classifier(model, tokenizer, tmp_path / "exported", max_seq_length=12)
    texts = ["good film", "the cat", "awful .", "a dog ran", "great"]
    answers = [
        entry["label"]
        for entry in torch_predictor(model, tokenizer, max_seq_length=12)(texts, None)
    ]
    assert len(set(answers)) == 2
    wrong = "good" if answers[0] == "bad" else "bad"
    rows = zip(texts, [wrong, *answers[1:]], strict=True)
    lines = ["sentence\tlabel", *("\t".join(row) for row in rows)]
    (tmp_path / "dev.tsv").write_text("\n".join(lines) + "\n")
    config = benchmark.Config(
        output_dir=str(tmp_path / "run"),
        models=[str(tmp_path / "small" / "model"), str(tmp_path / "exported")],
        file=str(tmp_path / "dev.tsv"),
        batch_sizes=[2],
        rounds=4,
        loads=1,
        lengths=[3],
        more_threads=[2],
        max_seq_length=12,
    )
    metrics = benchmark.run(config)
    rows = json.loads((tmp_path / "run" / "benchmark.json").read_text())
    names = [(row["model"], row["kind"]) for row in rows]
    assert names == [("small", "pytorch"), ("exported", "fp32"), ("exported", "int8")]
    assert rows[0]["accuracy"] == rows[1]["accuracy"] == pytest.approx(0.8)
    assert metrics["exported_int8_p50_ms"] == rows[2]["p50_ms"] > 0
    assert "texts_per_second_2" in capsys.readouterr().out
    assert metrics["small_pytorch_peak_mb"] > metrics["exported_int8_peak_mb"]
    grid = json.loads((tmp_path / "run" / "grid.json").read_text())
    assert {(row["threads"], row["words"]) for row in grid} == {
        (1, None),
        (1, 3),
        (2, None),
        (2, 3),
    }
    assert (tmp_path / "run" / "plots" / "trade-off.png").is_file()
    assert "Accuracy and memory" in (tmp_path / "run" / "pareto.html").read_text()
    assert (tmp_path / "run" / "report.html").is_file()


def test_pairs_with_an_empty_text_are_not_timed(tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def measure(subjects, texts, pairs, **options):
        raise Stop(texts, pairs)

    monkeypatch.setattr("nlpapp.deployment.benchmark.find_all", lambda *_, **__: [])
    monkeypatch.setattr("nlpapp.deployment.benchmark.measure", measure)
    (tmp_path / "dev.tsv").write_text("sentence1\tsentence2\n\ta\nb\t\nc\td\n")
    options = {"models": [str(tmp_path)], "file": str(tmp_path / "dev.tsv")}
    with pytest.raises(Stop) as stopped:
        benchmark.run(benchmark.Config(output_dir=str(tmp_path / "run"), **options))
    assert stopped.value.args == (["c"], ["d"])


def test_options_that_cannot_be_run_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="rounds is 0"):
        benchmark.Config(output_dir="x", rounds=0)
    with pytest.raises(ConfigError, match="batch_sizes is"):
        benchmark.Config(output_dir="x", batch_sizes=[8, 0])
    with pytest.raises(ConfigError, match="give either --file, or --task"):
        benchmark.run(benchmark.Config(output_dir=str(tmp_path / "run")))
