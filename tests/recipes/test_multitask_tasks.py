from dataclasses import replace

import pytest

from nlpapp.errors import ConfigError, DataError
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.bilstm import BiLstmSizeConfig
from nlpapp.objectives.distillation import DistillationConfig
from nlpapp.recipes.multitask import Config
from nlpapp.recipes.multitask_tasks import BAM, TaskConfig, named_tasks, read_tasks
from nlpapp.training.fit import TrainingConfig
from tests.conftest import REPOSITORY

OWN = TaskConfig(name="own", train_file="own.tsv")
TAUGHT = TaskConfig(task="mrpc", teacher="teacher")


def config_for(*tasks, **options):
    given = {"output_dir": "run", "tasks": list(tasks) or ["sst2", "mrpc"], "tokenizer": "t"}
    return Config(**given | options)


def test_tasks_are_known_by_their_own_names_or_glues():
    found = named_tasks(["sst2", TaskConfig(task="mrpc"), OWN, TaskConfig(name="m", task="mrpc")])
    assert list(found) == ["sst2", "mrpc", "own", "m"]
    assert found["sst2"] == TaskConfig(task="sst2") and found["m"].task == "mrpc"


@pytest.mark.parametrize(
    "tasks, message",
    [
        (["mrpc", "sst2", TaskConfig(task="mrpc")], "tasks has 'mrpc' twice"),
        ([OWN, TaskConfig(name="own", task="sst2")], "tasks has 'own' twice"),
        (["mrpc"], r"tasks are \['mrpc'\]; give at least two"),
        (["mrpc", TaskConfig(train_file="a.tsv")], "a task of a.tsv is called None"),
        (["mrpc", TaskConfig(name="a/b", train_file="a.tsv")], "is called 'a/b'; give it a name"),
        (["mrpc", TaskConfig(name="a.b", train_file="a.tsv")], "is called 'a.b'"),
    ],
)
def test_tasks_that_cannot_be_told_apart_are_refused(tasks, message):
    with pytest.raises(ConfigError, match=message):
        config_for(*tasks)


@pytest.mark.parametrize(
    "tasks, options, message",
    [
        ((), {"objective": DistillationConfig(alpha=0.5)}, "no task has one"),
        (("sst2", TAUGHT), {"objective": DistillationConfig(alpha=1.0)}, "alpha 1 have no meaning"),
        (("sst2", TAUGHT), {"objective": DistillationConfig(hidden_weight=1.0)}, "hidden_weight"),
        (("sst2", TAUGHT), {"training": TrainingConfig(max_hours=1.0)}, "goes by steps"),
        (
            (replace(TAUGHT, task="sst2"), TAUGHT),
            {"objective": DistillationConfig(label_smoothing=0.1)},
            "a teacher for every task",
        ),
        ((), {"tokenizer": None}, "give --model, or --tokenizer"),
        ((), {"architecture": "bilstm", "model": "m"}, "leave model and size out"),
        (
            (),
            {"architecture": "bilstm", "size": BertSizeConfig(num_layers=1)},
            "leave model and size out",
        ),
        ((), {"bilstm": BiLstmSizeConfig(hidden_size=7)}, "bilstm describes architecture bilstm"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tasks, options, message):
    with pytest.raises(ConfigError, match=message):
        config_for(*tasks, **options)


def test_options_that_do_go_together_are_taken():
    smoothed = DistillationConfig(teacher_loss="kl", final_alpha=1.0, label_smoothing=0.1)
    assert config_for(objective=smoothed).objective == smoothed
    assert (
        config_for("sst2", TAUGHT, objective=DistillationConfig(alpha=0.5)).objective.alpha == 0.5
    )
    assert config_for(training=TrainingConfig(max_hours=1.0)).objective == BAM


def test_what_is_wrong_with_a_task_is_said_with_its_name(tmp_path):
    train = tmp_path / "own.tsv"
    train.write_text("sentence\tlabel\n" + "good\t1\nbad\t0\n" * 10)
    own = TaskConfig(name="own", train_file=str(train))
    with pytest.raises(ConfigError, match="task mrcp: there is no task 'mrcp'.*'mrpc'"):
        read_tasks(config_for(own, "mrcp", data_dir=str(tmp_path)))
    with pytest.raises(ConfigError, match="task sst2: --task sst2 needs --data_dir"):
        read_tasks(config_for(own, "sst2"))
    both = TaskConfig(name="both", task="sst2", train_file=str(train))
    with pytest.raises(ConfigError, match="task both: give either"):
        read_tasks(config_for(own, both))
    # The folder of GLUE is of no concern to a task of one's own.
    other = TaskConfig(name="other", train_file=str(train), regression=True)
    first, second = read_tasks(config_for(own, other, data_dir="absent"))
    assert first.sets.label_names == ("0", "1") and second.sets.label_names == ()
    assert (len(first.sets.train), len(first.dev)) == (18, 2)


def test_a_task_may_have_a_folder_of_its_own():
    glue = str(REPOSITORY / "data" / "sample" / "glue")
    own = TaskConfig(task="mrpc", data_dir=glue)
    first, second = read_tasks(config_for(own, TaskConfig(task="sst2"), data_dir=glue))
    assert first.sets.pairs and not second.sets.pairs
    with pytest.raises(DataError, match="absent: there is no such folder"):
        read_tasks(config_for(own, "sst2", data_dir="absent"))
