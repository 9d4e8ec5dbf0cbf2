import json
import re
import shutil
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nlpapp.errors import CheckpointError, ConfigError, DataError
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.recipes.import_checkpoint import Config, run
from nlpapp.text.vocabulary import load_vocabulary
from tests.conftest import REPOSITORY
from tests.golden.transformer_xl_cases import texts

GOLDEN = REPOSITORY / "tests" / "golden"
FOLDER = GOLDEN / "transfo-xl-untied"


class Whole:
    """Stands for the objects that the original code pickles."""


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
    model = load(tmp_path / "model")
    assert model.config.mem_len == 6 and model.config.clamp_len == 1000
    assert metrics == {"parameters": float(model.num_parameters()), "vocab_size": 30.0}
    ids = torch.from_numpy(texts()[0][0])
    memory = (torch.zeros(len(ids), 6, 8),) * 2  # transformers began with it
    with np.load(GOLDEN / "transformers_transformer_xl.npz") as file:
        expected = torch.from_numpy(file["untied/log-probabilities 0/all"])
    torch.testing.assert_close(model(ids, memory=memory).logits, expected, atol=1e-5, rtol=1e-5)


def load(folder):
    vocabulary = load_vocabulary(folder)
    options = {"vocab_size": len(vocabulary), "fingerprint": vocabulary.fingerprint()}
    return open_language_model(folder, size=TransformerXLSizeConfig(), **options)


@pytest.mark.parametrize("name", ["transfo-xl-untied", "transfo-xl-narrow"])
def test_shared_weights_that_safetensors_leave_out_are_found_again(name, tmp_path):
    """transformers keeps the embedding of what it shares with the softmax, and one u and v."""
    source = tmp_path / "source"
    shutil.copytree(GOLDEN / name, source)
    weights = torch.load(source / "pytorch_model.bin", weights_only=True)
    embedding = [tensor for key, tensor in weights.items() if "word_emb" in key]
    left = {
        key: tensor
        for key, tensor in weights.items()
        if "word_emb" in key or not any(torch.equal(tensor, other) for other in embedding)
    }
    assert len(left) < len(weights)
    if "transformer.r_w_bias" in left:
        left = {key: left[key] for key in left if not re.search(r"dec_attn\.r_[rw]_bias", key)}
    save_file(left, source / "model.safetensors")
    run(Config(source=str(source), output_dir=str(tmp_path / "run")))
    run(Config(source=str(GOLDEN / name), output_dir=str(tmp_path / "plain")))
    ids = torch.from_numpy(texts()[0][0])
    found, expected = (load(tmp_path / run / "model")(ids).logits for run in ("run", "plain"))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("given", [None, "vocab.bin"])
def test_the_vocabulary_of_transformers_is_read_without_running_code(given, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(FOLDER, source)
    words = (source / "vocab.txt").read_text().split()
    (source / "vocab.txt").unlink()
    saved = {"counter": Counter(words), "special": ["<eos>"], "idx2sym": words, "min_freq": 0}
    torch.save(
        saved | {"sym2idx": OrderedDict(zip(words, range(30), strict=True))}, source / "vocab.bin"
    )
    vocabulary = given and str(source / given)
    run(Config(source=str(source), output_dir=str(tmp_path / "run"), vocabulary=vocabulary))
    assert load_vocabulary(tmp_path / "run" / "model").symbols == words


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
        ({"vocabulary": "vocab.pkl"}, DataError, "vocab.pkl is not a vocabulary that can be read"),
        ({"vocabulary": "bytes.txt"}, DataError, "bytes.txt: .* needs <eos>.* enwik8"),
        ({"vocabulary": "short.txt"}, DataError, "has 1 entries, but the model has 30"),
        ({"source": "absent.pt"}, CheckpointError, "cannot read the weights"),
        ({"source": str(FOLDER)}, ConfigError, "mem_len: .* has its own in config.json"),
        ({"source": str(FOLDER), "mem_len": 0}, ConfigError, "mem_len: .* has its own"),
        ({"source": "no-vocabulary", "vocabulary": None}, DataError, "expected vocab.txt or vocab"),
        ({"source": "other"}, CheckpointError, "is of a 'bert' model; expected transfo-xl"),
        ({"source": "empty"}, CheckpointError, "holds no weights"),
    ],
)
def test_what_cannot_be_imported_is_named(
    options, error, message, state_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("<eos>\n", encoding="utf-8")
    (tmp_path / "bytes.txt").write_text("\n".join(map(str, range(30))), encoding="utf-8")
    torch.save(Whole(), tmp_path / "vocab.pkl")
    shutil.copytree(FOLDER, tmp_path / "no-vocabulary")
    (tmp_path / "no-vocabulary" / "vocab.txt").unlink()
    for name, kind in (("other", "bert"), ("empty", "transfo-xl")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": kind}))
    given = {"source": "state.pt", "vocabulary": "vocab.txt", "mem_len": 6}
    if options.get("source") in ("other", "empty", "no-vocabulary"):
        given["mem_len"] = None
    with pytest.raises(error, match=message):
        run(Config(**given | {"output_dir": "run"} | options))


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
