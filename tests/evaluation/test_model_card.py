"""Model cards: read back with the Hub's own parser, and as Markdown."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard

from nlpapp.evaluation.model_card import write_model_card

USAGE = 'from transformers import AutoModel\n\nmodel = AutoModel.from_pretrained("model")'


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "train_file: a|b.tsv\ntraining:\n  max_steps: null\n  learning_rate: 1.0e-05\n",
        encoding="utf-8",
    )
    environment = {
        "command": "finetune",
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "git_commit": "abc123",
        "device": "CPU",
    }
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    return folder


def write(folder, **changes):
    arguments = {
        "title": "A classifier",
        "summary": "Tells good from bad.",
        "metrics": {"seconds": 12.5, "accuracy": 0.8125},
        "usage": USAGE,
    }
    path = write_model_card(folder, **(arguments | changes))
    assert path == folder / "README.md"
    return path, ModelCard.load(path)


def test_the_hub_reads_header_and_results(tmp_path, run_folder):
    details = {
        "language": "en",
        "license": "apache-2.0",
        "pipeline_tag": "text-classification",
        "dataset": "sst2",
        "tags": ["bert", "nlpapp"],
    }
    _, card = write(tmp_path / "model", run_folder=run_folder, details=details)
    assert card.data.language == "en"
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "transformers"
    assert card.data.tags == ["nlpapp", "finetune", "bert"]
    assert card.data.metrics == ["accuracy"]
    (result,) = card.data.eval_results
    assert (result.task_type, result.dataset_name) == ("text-classification", "sst2")
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.8125)


def test_nothing_is_claimed_that_was_not_given(tmp_path):
    path, card = write(tmp_path / "model", metrics={"seconds": 3.0})
    header = yaml_header(path)
    assert set(header) == {"library_name", "tags"}
    assert card.data.license is None
    assert "Training data" not in card.text


def yaml_header(path):

    return yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])


def test_quality_first_and_intervals_in_their_row(tmp_path):
    metrics = {
        "seconds": 3.0,
        "best_step": 7.0,
        "accuracy_low": 0.78,
        "accuracy": 0.8125,
        "accuracy_high": 0.84,
    }
    _, card = write(tmp_path / "model", metrics=metrics)
    table = card.text.split("## Results")[1].split("##")[0].strip().splitlines()
    assert table == [
        "| figure | value | 95 % interval |",
        "| --- | --- | --- |",
        "| accuracy | 0.8125 | 0.7800 to 0.8400 |",
        "| seconds | 3 |  |",
        "| best step | 7 |  |",
    ]
    assert card.data.metrics == ["accuracy"]


def test_hyper_parameters_versions_and_command_come_from_the_run(tmp_path, run_folder):
    _, card = write(tmp_path / "model", run_folder=run_folder)
    assert "| `training.max_steps` | `null` |" in card.text
    assert "| `training.learning_rate` | 1e-05 |" in card.text
    assert "| `train_file` | `a\\|b.tsv` |" in card.text  # a bar would end the cell
    assert "torch 2.13.0, transformers 5.23.0" in card.text
    assert f"nlpapp finetune --config {run_folder / 'config.yaml'} --output_dir" in card.text
    assert "| git commit | `abc123` |" in card.text


def test_what_was_before_training_stands_beside(tmp_path):
    metrics = {"initial_loss": 7.5, "loss": 2.25, "steps": 3}
    _, card = write(tmp_path / "model", metrics=metrics)
    table = card.text.split("## Results")[1].split("##")[0].strip().splitlines()
    assert table == [
        "| figure | value | before training |",
        "| --- | --- | --- |",
        "| loss | 2.250 | 7.500 |",
        "| steps | 3 |  |",
    ]


def test_long_details_are_no_table_cells(tmp_path):
    details = {"training data": {"files": 2}, "a sample": "word " * 60}
    _, card = write(tmp_path / "model", details=details)
    assert "## Training data\n\n| what | value |\n| --- | --- |\n| files | 2 |" in card.text
    assert "### A sample\n\n```text\nword word" in card.text


def test_details_become_tables_and_limits_can_be_given(tmp_path):
    details = {
        "manifest sha256": "0123abcd",
        "counts": {"documents": 12, "per_split": {"train": 10}},
        "limits": "English only.",
    }
    _, card = write(tmp_path / "model", details=details)
    assert "| manifest sha256 | `0123abcd` |" in card.text
    assert "### Counts" in card.text
    assert "| per split.train | 10 |" in card.text
    assert card.text.rstrip().endswith("## Limits\n\nEnglish only.")


@pytest.mark.parametrize(
    ("usage", "fence"),
    [(USAGE, "```python"), ("nlpapp predict --model model --input_file a.tsv", "```bash")],
)
def test_usage_is_a_code_block(tmp_path, usage, fence):
    _, card = write(tmp_path / "model", usage=usage)
    assert f"{fence}\n{usage}\n```" in card.text


def test_writing_again_replaces_the_card(tmp_path):
    write(tmp_path / "model", title="Old")
    path, card = write(tmp_path / "model", title="New")
    assert "# New" in card.text
    assert "Old" not in card.text
    assert [entry.name for entry in path.parent.iterdir()] == ["README.md"]


def test_the_curves_go_where_the_card_goes(tmp_path, run_folder):
    _, card = write(tmp_path / "model", run_folder=run_folder)
    assert "curves.png" not in card.text
    (run_folder / "plots").mkdir()
    (run_folder / "plots" / "curves.png").write_bytes(b"a picture")
    _, card = write(tmp_path / "model", run_folder=run_folder)
    assert "](curves.png)" in card.text
    assert (tmp_path / "model" / "curves.png").read_bytes() == b"a picture"
