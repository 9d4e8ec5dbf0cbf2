import json

from nlpapp.evaluation.pretraining_report import leave_pretraining_report


def test_the_report_has_curves_card_and_page(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "environment.json").write_text(json.dumps({"command": "pretrain", "seed": 1}))
    lines = [{"step": step, "split": "train", "loss": 5 - step} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = {"masked_lm_loss": 4.25}
    leave_pretraining_report(tmp_path, metrics=metrics, details={"training data": "of these texts"})
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert f'AutoModelForMaskedLM.from_pretrained("{tmp_path}/model")' in card
    assert "4.25" in card and "of these texts" in card
    assert (tmp_path / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "4.25" in (tmp_path / "report.html").read_text(encoding="utf-8")
