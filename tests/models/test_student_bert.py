import pytest
import torch

from nlpapp.errors import ConfigError
from nlpapp.models.student_bert import (
    SUPPORTED,
    build_student_bert,
    layer_map,
    leave_attention_whole,
    transformer_layers,
)
from tests.deployment.models import build_model

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 3, 4]])
CLASSES = ("good", "bad", "fine")
OUTPUTS = [2, 0, 1]


@pytest.mark.parametrize("kind", SUPPORTED)
@torch.no_grad()
def test_a_student_of_all_layers_is_its_teacher_with_the_classes_in_the_datas_order(kind):
    teacher = build_model(kind)
    student = build_student_bert(teacher, [1, 2], label_names=CLASSES, outputs=OUTPUTS).eval()
    assert student.config.id2label == dict(enumerate(CLASSES))
    found, expected = student(IDS).logits, teacher(IDS).logits
    torch.testing.assert_close(found, expected[:, OUTPUTS])


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
@torch.no_grad()
def test_one_layer_saves_and_loads_and_leaves_the_teacher_alone(kind, tmp_path):
    teacher = build_model(kind)
    before = teacher(IDS).logits
    student = build_student_bert(teacher, [2], label_names=CLASSES, outputs=OUTPUTS).eval()
    assert len(transformer_layers(student)) == 1 == student.config.num_hidden_layers
    own = transformer_layers(student)[0].state_dict()
    for name, weight in transformer_layers(teacher)[1].state_dict().items():
        assert torch.equal(own[name], weight)
    student.save_pretrained(tmp_path)
    loaded = type(student).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(loaded(IDS).logits, student(IDS).logits)
    for weight in student.parameters():
        weight.zero_()
    assert torch.equal(teacher(IDS).logits, before)


@torch.no_grad()
def test_a_student_can_be_asked_for_its_attention_maps_after_it_was_made():
    student = build_student_bert(build_model("bert"), [2], label_names=CLASSES, outputs=OUTPUTS)
    student.set_attn_implementation("eager")
    (found,) = student(IDS, output_attentions=True).attentions
    assert found.shape == (2, 2, 4, 4)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_attention_maps_can_be_left_whole_while_training(kind):
    model = build_model(kind).train()
    model.set_attn_implementation("eager")

    def rows():
        torch.manual_seed(0)
        maps = model(IDS, output_attentions=True).attentions
        return torch.stack(maps).sum(-1)

    assert (rows() - 1).abs().max() > 0.01
    leave_attention_whole(model)
    torch.testing.assert_close(rows(), torch.ones_like(rows()))


def test_the_layer_map_is_tinyberts_where_the_numbers_divide():
    assert layer_map([], 4, 12) == [3, 6, 9, 12]
    assert layer_map([], 2, 3) == [2, 3]
    assert layer_map([1, 3], 2, 3) == [1, 3]


def test_layers_that_do_not_exist_are_refused():
    teacher = build_model("bert")
    ends = {"label_names": CLASSES, "outputs": OUTPUTS}
    with pytest.raises(ConfigError, match="bert.layers is empty; the teacher's layers are 1 to 2"):
        build_student_bert(teacher, [], **ends)
    with pytest.raises(ConfigError, match="bert.layers names layer 0"):
        build_student_bert(teacher, [0, 1], **ends)
    with pytest.raises(ConfigError, match="bert.layer_map names layer 9"):
        layer_map([9], 1, 2)
    with pytest.raises(ConfigError, match="bert.layer_map has 1 layers and the student 2"):
        layer_map([1], 2, 2)
    with pytest.raises(ConfigError, match="layers of a 'bilstm'; the teacher must be one of bert"):
        build_student_bert(build_model("bilstm"), [1], **ends)
