import pytest

from nlpapp.errors import ConfigError
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.pruning import PruningConfig
from nlpapp.models.student_bert import StudentBertConfig
from nlpapp.models.text_cnn import TextCnnSizeConfig
from nlpapp.objectives.distillation import DistillationConfig
from nlpapp.recipes.distill import Config
from nlpapp.text.student_vocabulary import StudentVocabularyConfig
from nlpapp.training.fit import TrainingConfig

BERT = {"architecture": "bert", "bert": StudentBertConfig(layers=[1])}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_cnn": TextCnnSizeConfig(filters=7)}, "text_cnn describes a student of arch"),
        ({"bert": StudentBertConfig(layers=[1])}, "bert describes a student of architecture bert"),
        (BERT | {"embeddings": "teacher"}, "keeps its teacher's embeddings"),
        (
            BERT | {"vocabulary": StudentVocabularyConfig(kind="words")},
            "is teacher or pruned",
        ),
        ({"objective": DistillationConfig(hidden_weight=1.0)}, "choose architecture bert"),
        (
            {
                "objective": DistillationConfig(final_alpha=1.0),
                "training": TrainingConfig(max_hours=1.0),
            },
            "leave training.max_hours out",
        ),
        (
            {
                "objective": DistillationConfig(final_alpha=1.0),
                "pruning": PruningConfig(sparsity=0.5, max_steps=3),
            },
            "leave pruning.max_steps out",
        ),
        ({"objective": DistillationConfig(alpha=1.0)}, "learns from labels alone"),
        ({"objective": DistillationConfig(label_smoothing=0.1)}, "alpha 0 never asks the labels"),
        ({"evaluation_batch_size": 0}, "evaluation_batch_size is 0; it must be 1 or more"),
        ({"size": BertSizeConfig(num_layers=1)}, "size is of a random teacher"),
        ({"teacher": ["one", "two"], "tokenizer": "three"}, "there are several teachers"),
        (
            {"architecture": "bert", "bert": StudentBertConfig(layers=[1], layer_map=[2])},
            "says which layers are compared, and none is",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Config(**({"output_dir": "run", "teacher": "teacher"} | options))


def test_labels_that_are_asked_at_the_end_may_be_smoothed():
    objective = DistillationConfig(label_smoothing=0.1, final_alpha=0.5)
    assert Config(output_dir="run", teacher="teacher", objective=objective).teachers == ["teacher"]
    assert Config(output_dir="run", tokenizer="words").teachers == []
