import zipfile

import numpy as np
import pytest

from nlpapp.data.classification_sets import ClassificationSets
from nlpapp.data.glue_tasks import TASKS, read_task
from nlpapp.recipes.multitask import Config
from nlpapp.recipes.multitask_models import build_model
from nlpapp.recipes.multitask_results import report, score_task
from nlpapp.recipes.multitask_tasks import Task, TaskConfig
from nlpapp.training.run_folder import RunFolder
from tests.recipes.test_multitask_models import TINY, words


@pytest.fixture
def config(tiny_tokenizer_folder, tmp_path):
    return Config(
        output_dir=str(tmp_path / "run"),
        tasks=["wnli", "mrpc"],
        tokenizer=str(tiny_tokenizer_folder),
        size=TINY,
        max_seq_length=24,
    )


@pytest.fixture
def run(config):
    found = RunFolder.open(config.output_dir, config=config, command="multitask", seed=1)
    found.log(1, "train", {"loss": 1.0})
    return found


@pytest.fixture
def wnli(tmp_path):
    """WNLI with as many test rows as the official one, and fewer others."""
    folder = tmp_path / "glue" / "WNLI"
    folder.mkdir(parents=True)
    header, row = "index\tsentence1\tsentence2", "{}\tthe cat sat\tthe dog ran"
    for split, rows in (("train", 4), ("dev", 2), ("test", TASKS["wnli"].rows["test"])):
        labelled = split != "test"
        lines = [header + "\tlabel" * labelled]
        lines += [row.format(n) + f"\t{n % 2}" * labelled for n in range(rows)]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    task = TASKS["wnli"]
    train, dev, test = (read_task(task, tmp_path / "glue", s) for s in ("train", "dev", "test"))
    sets = ClassificationSets(
        train=train, dev={"dev": dev}, test={"test": test}, metrics=task.metrics
    )
    return Task(name="wnli", options=TaskConfig(task="wnli"), sets=sets)


def test_a_task_is_scored_beside_its_teacher(config, run):
    task = words()
    tokenizer, model = build_model(config, [task, words()])
    # A teacher that is right everywhere: logits that are the labels.
    taught = {"dev": np.eye(3, dtype=np.float32)[task.dev.labels]}
    figures = score_task(run, config, task, model, tokenizer, taught)
    lines = (run.path / "tasks" / "words" / "predictions-dev.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines[1:]]
    right = np.mean([row[1] == row[2] for row in rows])
    assert len(rows) == 5 and figures["accuracy"] == pytest.approx(right)
    assert figures["teacher_accuracy"] == 1.0
    assert figures["retained"] == figures["agreement"] == pytest.approx(right)
    assert "teacher_accuracy" not in score_task(run, config, task, model, tokenizer, None)


def test_the_submission_holds_the_answers_of_glues_tasks(config, run, wnli):
    tasks = [wnli, words()]
    tokenizer, model = build_model(config, tasks)
    figures = {t.name: score_task(run, config, t, model, tokenizer, None) for t in tasks}
    report(run, config, tasks, figures, {"mean_score": 0.5})
    with zipfile.ZipFile(run.path / "submission" / "submission.zip") as archive:
        answers = archive.read("WNLI.tsv").decode().splitlines()
        assert len(archive.namelist()) == 11
    written = (run.path / "tasks" / "wnli" / "predictions-test.tsv").read_text().splitlines()[1:]
    names = list(TASKS["wnli"].labels)
    words_of = TASKS["wnli"].label_words
    expected = [words_of[names.index(line.split("\t")[1])] for line in written]
    assert [line.split("\t")[1] for line in answers[1:]] == expected
