import json
import shutil

import numpy as np
import pytest
import torch

from nlpapp.errors import CheckpointError, ConfigError, DataError
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.recipes.import_checkpoint import Config, run
from nlpapp.text.vocabulary import load_vocabulary
from tests.conftest import REPOSITORY
from tests.golden.transformer_xl_cases import texts

GOLDEN = REPOSITORY / "tests" / "golden"
FOLDER = GOLDEN / "transfo-xl-untied"


@pytest.fixture
def state_file(tmp_path):
    """The state dict of the original code, as torch.save leaves it, and its vocabulary."""
    start = "same_length/weights/"
    with np.load(GOLDEN / "original_transformer_xl.npz") as file:
        weights = {
            name.removeprefix(start): torch.from_numpy(file[name])
            for name in file.files
            if name.startswith(start)
        }
    torch.save(weights, tmp_path / "state.pt")
    shutil.copy(FOLDER / "vocab.txt", tmp_path)
    return tmp_path / "state.pt"


def test_a_folder_of_transformers_becomes_a_language_model(tmp_path):
    metrics = run(Config(source=str(FOLDER), output_dir=str(tmp_path)))
    vocabulary = load_vocabulary(tmp_path / "model")
    assert vocabulary.symbols[:3] == ["<eos>", "<unk>", "word2"] and len(vocabulary) == 30
    model = open_language_model(
        tmp_path / "model",
        size=TransformerXLSizeConfig(),
        vocab_size=30,
        fingerprint=vocabulary.fingerprint(),
    )
    assert model.config.mem_len == 6 and model.config.clamp_len == 1000
    assert metrics == {"parameters": float(model.num_parameters()), "vocab_size": 30.0}
    ids = torch.from_numpy(texts()[0][0])
    memory = (torch.zeros(len(ids), 6, 8),) * 2  # transformers began with it
    with np.load(GOLDEN / "transformers_transformer_xl.npz") as file:
        expected = torch.from_numpy(file["untied/log-probabilities 0/all"])
    torch.testing.assert_close(model(ids, memory=memory).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_state_dict_of_the_original_becomes_a_language_model(state_file, tmp_path):
    config = Config(
        source=str(state_file),
        output_dir=str(tmp_path / "run"),
        vocabulary=str(tmp_path / "vocab.txt"),
        mem_len=6,
        same_length=True,
    )
    run(config)
    saved = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert saved["same_length"] is True and saved["mem_len"] == 6 and saved["head_dim"] == 3
    assert run(config)["vocab_size"] == 30.0  # finished: answers again


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mem_len": None}, ConfigError, "mem_len: a state dict does not tell it"),
        ({"vocabulary": None}, ConfigError, "vocabulary: a state dict has none"),
        ({"vocabulary": "vocab.pkl"}, DataError, "vocab.pkl is a pickle"),
        ({"vocabulary": "short.txt"}, DataError, "has 1 entries, but the model has 30"),
        ({"source": "absent.pt"}, CheckpointError, "cannot read the weights"),
        ({"source": str(FOLDER)}, ConfigError, "mem_len: .* has its own in config.json"),
        ({"source": "other"}, CheckpointError, "is of a 'bert' model; expected transfo-xl"),
        ({"source": "empty"}, CheckpointError, "holds no weights"),
    ],
)
def test_what_cannot_be_imported_is_named(
    options, error, message, state_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("<eos>\n", encoding="utf-8")
    for name, kind in (("other", "bert"), ("empty", "transfo-xl")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": kind}))
    given = {"source": "state.pt", "vocabulary": "vocab.txt", "mem_len": 6}
    if options.get("source") in ("other", "empty"):
        given["mem_len"] = None
    with pytest.raises(error, match=message):
        run(Config(**given | {"output_dir": "run"} | options))


class Whole:
    """Stands for the model object that the original code pickles."""


def test_a_pickled_model_is_refused_with_the_way_out(tmp_path):
    torch.save(Whole(), tmp_path / "model.pt")
    config = Config(
        source=str(tmp_path / "model.pt"), output_dir=str(tmp_path / "run"),
        mem_len=6, vocabulary="vocab.txt",
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="pickle of more than tensors.*state_dict"):
        run(config)


def test_a_negative_memory_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="mem_len: -1 is negative"):
        Config(source="absent", output_dir="absent", mem_len=-1)
