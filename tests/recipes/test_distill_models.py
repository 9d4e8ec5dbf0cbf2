from nlpapp.data.augmentation import AugmentationConfig
from nlpapp.models.student_bert import StudentBertConfig
from nlpapp.objectives.distillation import DistillationConfig
from nlpapp.recipes.distill import Config
from nlpapp.recipes.distill_models import build_objective
from tests.deployment.models import build_model

OFF = AugmentationConfig(n_iter=0)
BERT = {"architecture": "bert", "bert": StudentBertConfig(layers=[1])}


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
