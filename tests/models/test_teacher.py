import json

import pytest

from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.teacher import load_teacher
from tests.deployment.models import build_encoder, build_model

KNOWN = {
    "size": BertSizeConfig(num_layers=1, hidden_size=8, num_heads=2, max_position_embeddings=16),
    "vocab_size": 80,
    "pad_token_id": 0,
    "fingerprint": "abc",
    "max_seq_length": 16,
}


def saved(tmp_path, model):
    model.save_pretrained(tmp_path)
    return tmp_path


def test_classes_are_found_by_name(tmp_path):
    folder = saved(tmp_path, build_model("bert"))  # bad, fine, good
    model, outputs = load_teacher(folder, label_names=("good", "bad", "fine"), **KNOWN)
    assert outputs == [2, 0, 1] and not model.training


def test_a_score_has_one_output(tmp_path):
    folder = saved(tmp_path, build_model("bert", labels={0: "score"}))
    assert load_teacher(folder, label_names=(), **KNOWN)[1] == [0]
    assert load_teacher(None, label_names=(), **KNOWN)[0].config.num_labels == 1


def test_other_classes_are_refused(tmp_path):
    folder = saved(tmp_path, build_model("bert"))
    with pytest.raises(ConfigError, match="classes are bad, fine, good; the data's are no, yes"):
        load_teacher(folder, label_names=("no", "yes"), **KNOWN)
    with pytest.raises(ConfigError, match="the data's are none"):
        load_teacher(folder, label_names=(), **KNOWN)


def test_what_is_no_classifier_of_one_class_is_refused(tmp_path):
    folder = saved(tmp_path / "encoder", build_encoder("bert"))
    with pytest.raises(CheckpointError, match="BertModel, which is not a sequence classifier"):
        load_teacher(folder, label_names=("a", "b"), **KNOWN)
    several = build_model("bert", problem_type="multi_label_classification")
    with pytest.raises(ConfigError, match="gives a text several of its classes"):
        load_teacher(
            saved(tmp_path / "several", several), label_names=("bad", "fine", "good"), **KNOWN
        )


@pytest.mark.parametrize("named", [True, False])
def test_an_encoder_that_passes_for_a_classifier_is_refused(tmp_path, named):
    folder = saved(tmp_path / "encoder", build_encoder("bert"))
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"] if named else None
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"fine-tune it first .* no weights for classifier"):
        load_teacher(folder, label_names=("a", "b"), **KNOWN)


def test_three_classes_without_names_have_no_order(tmp_path):
    names = {index: f"LABEL_{index}" for index in range(3)}
    folder = saved(tmp_path / "unnamed", build_model("bert", labels=names))
    with pytest.raises(ConfigError, match="calls its classes LABEL_0, LABEL_1, LABEL_2, and"):
        load_teacher(folder, label_names=("no", "maybe", "yes"), **KNOWN)
    assert load_teacher(folder, label_names=("0", "1", "2"), **KNOWN)[1] == [0, 1, 2]


def test_too_long_texts_and_other_tokenizers_are_refused(tmp_path):
    folder = saved(tmp_path, build_model("bert", tokenizer_fingerprint="other"))
    names = ("bad", "fine", "good")
    with pytest.raises(ConfigError, match="another tokenizer"):
        load_teacher(folder, label_names=names, **KNOWN)
    with pytest.raises(ConfigError, match="49"):
        load_teacher(folder, label_names=names, **(KNOWN | {"max_seq_length": 49}))
