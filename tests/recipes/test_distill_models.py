import pytest

from nlpapp.data.augmentation import AugmentationConfig
from nlpapp.errors import ConfigError
from nlpapp.models.student_bert import StudentBertConfig
from nlpapp.models.text_cnn import TextCnnSizeConfig
from nlpapp.objectives.distillation import DistillationConfig
from nlpapp.recipes.distill import Config
from nlpapp.recipes.distill_models import build_objective
from nlpapp.text.student_vocabulary import StudentVocabularyConfig
from nlpapp.training.fit import TrainingConfig
from tests.deployment.models import build_model

OFF = AugmentationConfig(n_iter=0)
BERT = {"architecture": "bert", "bert": StudentBertConfig(layers=[1])}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_cnn": TextCnnSizeConfig(filters=7)}, "text_cnn describes a student of arch"),
        ({"bert": StudentBertConfig(layers=[1])}, "bert describes a student of architecture bert"),
        (BERT | {"embeddings": "teacher"}, "keeps its teacher's vocabulary"),
        (BERT | {"vocabulary": StudentVocabularyConfig(kind="words")}, "keeps its teacher's voc"),
        ({"objective": DistillationConfig(hidden_weight=1.0)}, "choose architecture bert"),
        (
            {
                "objective": DistillationConfig(final_alpha=1.0),
                "training": TrainingConfig(max_hours=1.0),
            },
            "leave training.max_hours out",
        ),
        ({"objective": DistillationConfig(alpha=1.0)}, "learns from labels alone"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Config(output_dir="run", teacher="teacher", **options)


def test_layers_are_compared_along_the_map():
    options = {"teacher": "teacher", "augmentation": OFF}
    plain = Config(output_dir="run", **options)
    student, teacher = build_model("bert", num_hidden_layers=1), build_model("bert")
    assert build_objective(plain, teacher, student).layers is None
    config = Config(
        output_dir="run", **options, **BERT, objective=DistillationConfig(attention_weight=0.5)
    )
    found = build_objective(config, teacher, student).layers
    assert found.layer_map == [2] and found.attention_weight == 0.5
    assert student.config._attn_implementation == teacher.config._attn_implementation == "eager"
