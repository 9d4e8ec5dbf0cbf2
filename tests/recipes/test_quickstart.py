"""The chain: its stages fit together, and an interrupted one goes on with what is missing.

That every stage really runs is what configs/quickstart/debug.yaml is tested for.
"""

import json

import pytest

from nlpapp.recipes import quickstart, quickstart_stages
from nlpapp.training.run_folder import RunFolder
from tests.evaluation.test_chain_report import STAGES

RECIPES = [
    *("train_tokenizer", "make_data", "pretrain", "finetune"),
    *("distill", "train_lm", "export", "benchmark"),
]


@pytest.fixture
def stub(monkeypatch):
    """Stages that only note that they ran; the one named in ``interrupt`` is stopped by Ctrl-C."""
    ran, interrupt = [], []

    def run(config):
        run = RunFolder.open(config.output_dir, config=config, command="stub", seed=config.seed)
        if run.finished is not None:
            return run.finished
        if run.path.name in interrupt:
            raise KeyboardInterrupt
        ran.append(run.path.name)
        if run.path.name in ("teacher", "student"):
            lines = ["prediction", *["files"] * 674]
            (run.path / "predictions-test.tsv").write_text("\n".join(lines) + "\n")
        if run.path.name == "benchmark":
            row = {"model": "m", "kind": "fp32", "p50_ms": 1.0, "accuracy": 0.5}
            (run.path / "benchmark.json").write_text(json.dumps([row]))
        run.finish(STAGES.get(run.path.name, {}))
        return run.finished

    for name in RECIPES:
        monkeypatch.setattr(getattr(quickstart_stages, name), "run", run)
    return ran, interrupt


def test_an_interrupted_chain_goes_on_with_what_is_missing(tmp_path, stub, capsys):
    ran, interrupt = stub
    config = quickstart.Config(output_dir=str(tmp_path / "run"))
    interrupt.append("student")
    with pytest.raises(KeyboardInterrupt):
        quickstart.run(config)
    before = list(ran)
    assert before[-1] == "teacher-from-scratch" and "student" not in before
    interrupt.clear()
    metrics = quickstart.run(config)
    assert ran[len(before)] == "student" and len(ran) == len(set(ran))
    assert ran == [stage.folder for stage in quickstart_stages.stages(config, tmp_path / "run")]
    shown = capsys.readouterr().out
    assert "next_sentence_accuracy" in shown and "report.html" in shown
    assert metrics["bert/masked_lm_loss"] == 7.2 and 0.5 < metrics["tfidf"] < 0.9
    # A complete chain is not run again.
    assert quickstart.run(config) == metrics and len(ran) == len(set(ran))
