import json
import sys

import pytest
import yaml

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from nlpapp.deployment import serve_process
from nlpapp.deployment.export import export_classifier
from nlpapp.deployment.runtime import Predictor
from nlpapp.deployment.serve_limits import LimitsConfig
from nlpapp.errors import CheckpointError, ConfigError
from nlpapp.recipes import serve
from tests.deployment.models import build_model, load_tokenizer
from tests.deployment.served import write_encoder_bundle
from tests.source_files import REPOSITORY


@pytest.fixture(scope="module")
def folders(tiny_tokenizer_folder, tmp_path_factory):
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    folder = tmp_path_factory.mktemp("served")
    export_classifier(
        build_model("bilstm"), tokenizer, folder / "small", max_seq_length=16, batches=2
    )
    write_encoder_bundle(folder / "vectors", tokenizer)
    return folder


def test_a_check_asks_each_model_and_leaves_its_record(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("NLPAPP_API_KEY", "correct horse")
    config = serve.Config(
        models=[str(folders / "small"), f"v={folders / 'vectors'}"],
        drain_seconds=0.0,
        check=True,
        output_dir=str(tmp_path / "run"),
    )
    metrics = serve.run(config)
    assert metrics["models"] == 2
    answers = json.loads((tmp_path / "run" / "answers.json").read_text())
    (expected,) = Predictor(folders / "small").predict(["A good film."])
    assert answers["small"]["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    assert len(answers["v"]["embedding"]) == 4
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert "correct horse" not in (tmp_path / "run" / "config.yaml").read_text()


def test_options_that_cannot_be_run_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="port is 70000"):
        serve.Config(models=["x"], port=70000)
    for name in ("workers", "threads", "drain_seconds", "stop_seconds"):
        with pytest.raises(ConfigError, match=f"{name} is -1"):
            serve.run(serve.Config(models=["x"], **{name: -1}))
    with pytest.raises(ConfigError, match="go together"):
        serve.Config(models=["x"], check=True)
    with pytest.raises(CheckpointError, match="is not a bundle"):
        serve.run(serve.Config(models=[str(tmp_path)], port=0))


def test_settings_go_to_the_processes(folders, monkeypatch):
    found = []
    monkeypatch.setattr(serve_process, "serve", lambda *arguments: found.append(arguments))
    limits = LimitsConfig(max_rows=7, max_wait_ms=1.5)
    config = serve.Config(
        models=[str(folders / "small")],
        port=0,
        workers=3,
        threads=2,
        precision="int8",
        limits=limits,
    )
    assert serve.run(config) == {}
    ((settings, listening),) = found
    assert (settings.workers, settings.threads) == (3, 2)
    assert (settings.precision, settings.limits) == ("int8", limits)
    assert listening.getsockname()[1] > 0
    listening.close()


def test_without_the_packages_of_a_server_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "nlpapp.deployment.serve_process")
    monkeypatch.delattr("nlpapp.deployment.serve_process")
    with pytest.raises(ConfigError, match=r"pip install 'nlpapp\[serve\]'"):
        serve.run(serve.Config(models=["x"]))


def test_the_manifest_probes_paths_that_the_server_has():
    documents = list(yaml.safe_load_all((REPOSITORY / "deploy" / "kubernetes.yaml").read_text()))
    (container,) = documents[0]["spec"]["template"]["spec"]["containers"]
    probes = {
        name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")
    }
    assert probes == {
        "startupProbe": "/ready",
        "readinessProbe": "/ready",
        "livenessProbe": "/health",
    }
    grace = documents[0]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    drain = float(container["args"][container["args"].index("--drain-seconds") + 1])
    assert grace > drain + serve.Config(models=["x"]).stop_seconds
    assert documents[1]["spec"]["selector"] == documents[0]["spec"]["selector"]["matchLabels"]
