import numpy as np
import pytest

from nlpapp.deployment.export import export_classifier
from nlpapp.deployment.runtime import Predictor
from nlpapp.deployment.serve_models import (
    Word,
    batch_key,
    find_words,
    open_models,
    split_name,
    without_word,
    word_weights,
)
from nlpapp.errors import CheckpointError, ConfigError, DataError
from tests.deployment.models import build_model, load_tokenizer
from tests.deployment.served import write_encoder_bundle

ROWS = [("good film", None), ("the cat sat", None)]


@pytest.fixture(scope="module")
def folders(tiny_tokenizer_folder, tmp_path_factory):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    folder = tmp_path_factory.mktemp("served")
    for name, model in {
        "classes": build_model("bilstm"),
        "siamese": build_model("bilstm", siamese=True),
        "scores": build_model("bert", labels={0: "score"}),
    }.items():
        export_classifier(model, tokenizer, folder / name, max_seq_length=16, batches=2)
    write_encoder_bundle(folder / "vectors", tokenizer)
    return folder


@pytest.fixture(scope="module")
def models(folders):
    names = ("classes", "siamese", "scores", "vectors")
    return open_models([folders / name for name in names], threads=1)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("classes", [{"label": "bad", "probabilities": {"bad": np.nan, "good": 1.0}}]),
        ("scores", [{"score": 1.0}, {"score": np.inf}]),
    ],
)
def test_numbers_that_json_cannot_write_are_an_error(models, monkeypatch, name, answer):
    monkeypatch.setattr(models[name].reader, "predict_together", lambda readings: answer)
    with pytest.raises(ArithmeticError, match=f"'{name}' gives numbers that are not finite"):
        models[name].compute(batch_key(ROWS), [])


def test_vectors_that_json_cannot_write_are_an_error(models, monkeypatch):
    vectors = np.array([[1.0, 2.0], [np.nan, 3.0]])
    monkeypatch.setattr(models["vectors"].reader, "encode_together", lambda *_, **__: vectors)
    with pytest.raises(ArithmeticError, match="'vectors' gives vectors that are not finite"):
        models["vectors"].compute(batch_key(ROWS, pooling="mean", layer=-1), [])


def test_models_say_what_they_are(models):
    kinds = {name: model.describe()["kind"] for name, model in models.items()}
    assert kinds == {
        "classes": "classifier",
        "siamese": "classifier",
        "scores": "regression",
        "vectors": "encoder",
    }
    assert models["classes"].describe()["labels"] == ["bad", "fine", "good"]
    assert models["siamese"].describe()["pairs"] is True
    assert models["vectors"].describe()["layers"] == [0, 1]
    assert models["vectors"].describe()["answers"] == ["/embed"]


def compute(model, key, rows):
    readings, lengths = zip(*model.read(key, rows), strict=True)
    assert lengths == tuple(max(map(len, reading)) for reading in readings)
    return model.compute(key, readings)


def test_answers_are_those_of_the_runtime(models, folders):
    found = compute(models["classes"], batch_key(ROWS), ROWS)
    assert found == Predictor(folders / "classes").predict([text for text, _ in ROWS])
    pairs = [("good", "bad"), ("the cat", "a dog")]
    found = compute(models["siamese"], batch_key(pairs), pairs)
    assert found == Predictor(folders / "siamese").predict(*map(list, zip(*pairs, strict=True)))
    key = batch_key(ROWS, pooling="mean", layer=1)
    vectors = np.array(compute(models["vectors"], key, ROWS))
    half = compute(models["vectors"], batch_key(ROWS, pooling="mean", layer=0), ROWS)
    np.testing.assert_allclose(vectors, 2 * np.array(half), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "rows", "layer", "message"),
    [
        ("classes", [("good", None), (" \n", None)], None, r"texts\[1\] is empty"),
        ("classes", [("good", "")], None, r"pairs\[0\] is empty"),
        ("siamese", [("good", None)], None, "compares two texts"),
        ("vectors", [("good", None)], 7, "'vectors' has no layer 7; it has 0, 1 of 1"),
        ("vectors", [("good", None)], -3, "has no layer -3"),
    ],
)
def test_rows_that_cannot_be_read_are_refused_without_a_path(models, name, rows, layer, message):
    with pytest.raises(DataError, match=message) as caught:
        models[name].check(rows, layer=layer)
    assert "/" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("runs/sst2/bundle", "sst2"),
        ("runs/sst2/", "sst2"),
        ("small=runs/sst2", "small"),
        ("runs/a b", "a-b"),
    ],
)
def test_models_are_named_by_their_folder_or_by_the_user(entry, name):
    assert split_name(entry)[0] == name


def test_names_that_cannot_stand_in_a_request_are_refused(folders):
    with pytest.raises(ConfigError, match="'../x' cannot name a model"):
        split_name("../x=runs/sst2")
    with pytest.raises(ConfigError, match="write name=folder: name=runs/lr=1e-4/bundle"):
        split_name("runs/lr=1e-4/bundle")
    with pytest.raises(ConfigError, match="two models have the name 'one'"):
        open_models([f"one={folders / 'classes'}", f"one={folders / 'scores'}"])
    with pytest.raises(ConfigError, match="give --models"):
        open_models([])


def test_folders_that_are_no_bundle_or_were_changed_are_refused(folders, tmp_path):
    with pytest.raises(CheckpointError, match="is not a bundle"):
        open_models([tmp_path])
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in (folders / "classes").iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    with open(changed / "tokenizer.json", "ab") as file:
        file.write(b"\n")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        open_models([changed])


def test_each_word_is_left_out_in_turn():
    whole = ("It's so good!", "na\u00efve \U0001f600 no")
    words = find_words(whole)
    rows = [without_word(whole, word) for word in words]
    assert words == [
        *(Word(0, 0, 4), Word(0, 5, 7), Word(0, 8, 12)),
        *(Word(1, 0, 5), Word(1, 8, 10)),
    ]
    assert [row[0] for row in rows[:3]] == [" so good!", "It's  good!", "It's so !"]
    assert [row[1] for row in rows[3:]] == [" \U0001f600 no", "na\u00efve \U0001f600 "]
    assert rows[0][1] == "na\u00efve \U0001f600 no"


def test_a_lone_word_is_not_left_out():
    assert find_words(("good!", None)) == []
    assert find_words(("good!", "not bad")) == [Word(1, 0, 3), Word(1, 4, 7)]


def test_weights_are_differences_of_the_whole_texts_label():
    whole = {"label": "good", "probabilities": {"bad": 0.25, "good": 0.75}}
    parts = [
        {"label": "bad", "probabilities": {"bad": 0.75, "good": 0.25}},
        {"label": "good", "probabilities": {"bad": 0.125, "good": 0.875}},
    ]
    assert word_weights(whole, parts) == [0.5, -0.125]
    assert word_weights({"score": 2.0}, [{"score": 0.5}, {"score": 3.0}]) == [1.5, -1.0]
