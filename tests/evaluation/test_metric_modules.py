import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics

from nlpapp.evaluation.metric_modules import load_metric
from nlpapp.evaluation.metrics import compute_metrics
from tests.evaluation.test_metrics import rows


@pytest.mark.parametrize("label", range(4))
def test_f1_of_a_class_equals_scikit_learn(label):
    predictions, references = rows(7, 3, 300)
    expected = sklearn.metrics.f1_score(
        references, predictions, labels=[label], average="macro", zero_division=0.0
    )
    module = load_metric("f1")
    value = module.compute(predictions=predictions, references=references, pos_label=label)
    assert value == {"f1": pytest.approx(expected, abs=1e-12)}
    assert (label == 3) == (expected == 0)


def test_modules_work_batch_by_batch_as_in_evaluate():
    predictions, references = rows(2, 2, 60)
    module = load_metric("f1")
    for start in range(0, 60, 20):
        part = slice(start, start + 20)
        module.add_batch(predictions=predictions[part], references=references[part])
    assert module.compute() == compute_metrics(["f1"], predictions, references)


def test_modules_of_scores_keep_double_precision():
    references = np.array([1.0, 2.0, 3.0, 4.0])
    predictions = references + np.array([0, 1e-9, 0, 0])
    value = compute_metrics(["mean_squared_error"], predictions, references)
    assert value["mean_squared_error"] == pytest.approx(2.5e-19, rel=1e-6)


def test_modules_write_nothing(tmp_path):
    """No network, no cache: a home folder in which nothing can be made does not matter."""
    code = (
        "import numpy as np\n"
        "from nlpapp.evaluation.metrics import compute_metrics\n"
        "print(compute_metrics(['accuracy'], np.array([1, 0]), np.array([1, 1])))\n"
    )
    home = tmp_path / "home"
    home.write_text("a file, so that no folder can be made below it")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    environment |= {"HOME": str(home), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert "{'accuracy': 0.5}" in result.stdout


def test_the_libraries_of_pages_and_modules_are_not_imported_before_they_are_needed():
    """They take seconds, in which training could have begun."""
    late = ("datasets", "evaluate", "matplotlib", "pandas", "scipy.stats", "sklearn")
    code = f"import nlpapp.recipes.glue, sys; print([n for n in {late} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert result.stdout.strip() == "[]"
