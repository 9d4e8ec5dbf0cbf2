import pytest
import yaml

from nlpapp.deployment.bundle_card import Card, precisions, write_card

METRICS = {
    "parameters": 2e6,
    "parity_batches": 200.0,
    "fp32_max_difference": 3e-6,
    "fp32_label_agreement": 1.0,
    "fp32_bytes": 1234567.0,
    "fp32_latency_ms": 1.25,
    "int8_max_difference": 0.02,
    "int8_label_agreement": 0.99,
    "int8_bytes": 400000.0,
    "int8_weight_share": 0.97,
    "dev_rows": 100.0,
    "dev_pytorch_accuracy": 0.91,
    "dev_pytorch_accuracy_low": 0.85,
    "dev_pytorch_accuracy_high": 0.96,
    "dev_pytorch_loss": 0.3,
    "dev_fp32_accuracy": 0.91,
    "dev_int8_accuracy": 0.9,
}


@pytest.mark.parametrize("kind", ["classifier", "regression", "encoder", "language-model"])
def test_the_card_has_figures_and_calls_of_its_kind(kind, tmp_path):
    card = Card(
        kind=kind,
        model_type="bert",
        metrics=METRICS,
        labels=["no", "yes"] if kind == "classifier" else [],
        max_seq_length=64,
        facts={"data of the metrics": "dev.tsv"},
        layers=[3, 6],
    )
    write_card(tmp_path, card)
    text = (tmp_path / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["library_name"] == "onnx" and "pipeline_tag" in header
    assert "1,234,567" in text and "3.0e-06" in text and "1.25" in text and "97.0%" in text
    assert "| pytorch | 0.9100 (0.8500 to 0.9600) | 100 |" in text and "loss" not in text
    assert "data of the metrics: dev.tsv" in text and "python predict.py" in text
    calls = {
        "classifier": ["Predictor(", "/predict", "labels: no, yes", "probabilities"],
        "regression": ["Predictor(", "/predict", "score"],
        "encoder": ["Encoder(", "/embed", "layers: 3, 6"],
        "language-model": ["LanguageModel(", "--max_new_tokens"],
    }
    assert all(call in text for call in calls[kind])
    assert precisions(METRICS) == ["fp32", "int8"]


def test_models_of_pairs_are_called_with_pairs(tmp_path):
    card = Card(kind="classifier", model_type="bilstm", metrics=METRICS, labels=["a"], pairs=True)
    write_card(tmp_path, card)
    text = (tmp_path / "README.md").read_text()
    assert '[("first text", "second text")]' in text and "--pair" in text
    assert '{"texts": ["first text"], "pairs": ["second text"]}' in text
