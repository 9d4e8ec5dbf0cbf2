"""Answer requests for exported models over HTTP."""

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nlpapp.deployment.serve_client import Client
from nlpapp.deployment.serve_limits import LimitsConfig
from nlpapp.deployment.serve_models import ServedModel, open_models
from nlpapp.errors import ConfigError, NlpappError
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Answer requests for exported models over HTTP: /predict, /embed, /explain, and a page at /.

    NLPAPP_API_KEY in the environment, if it is set, is the key that requests must bring.
    """

    models: list[str]
    """Bundles of nlpapp export, each as folder or as name=folder; the first is the default."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 takes requests from other machines."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    precision: Literal["fp32", "fp16", "int8", "int8-static"] = "fp32"
    """Which model of each bundle."""
    workers: int = 0
    """Processes, each with all models in memory; 0: one for four cores."""
    threads: int = 0
    """Batches that a process computes at the same time, a processor thread each; 0: the cores
    divided by the processes, and one."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """What a request may ask for."""
    drain_seconds: float = 1.0
    """Seconds after SIGTERM in which requests are still taken, while /ready says no."""
    stop_seconds: float = 30.0
    """Seconds after that to finish what was taken."""
    check: bool = False
    """Start, ask each model once, stop, and leave the answers' figures in output_dir."""
    output_dir: str | None = None
    """Folder for the record of a check."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port is {self.port}; use 0 to 65535.")
        if self.check != (self.output_dir is not None):
            raise ConfigError("check and output_dir go together: give both or none.")


def run(config: Config) -> dict[str, float]:
    """Serve until SIGTERM or SIGINT, or check that the server answers."""
    try:
        from nlpapp.deployment import serve_process
    except ImportError as error:
        raise ConfigError(
            f"{error}. Install what a server needs: pip install 'nlpapp[serve]'."
        ) from error
    workers, threads = serve_process.share_cores(config.workers, config.threads)
    settings = serve_process.ServerSettings(
        models=[str(model) for model in config.models],
        precision=config.precision,
        workers=workers,
        threads=threads,
        drain_seconds=config.drain_seconds,
        stop_seconds=config.stop_seconds,
        limits=config.limits,
    )
    if config.check:
        return _check(config, settings, serve_process)
    _open_once(config)
    listening = serve_process.bind(config.host, config.port)
    address = "{}:{}".format(*listening.getsockname()[:2])
    logger.info(
        "serving on http://%s with %d processes of %d threads; the page is at /",
        *(address, workers, settings.threads),
    )
    if config.host not in ("127.0.0.1", "localhost", "::1") and not os.environ.get(
        "NLPAPP_API_KEY"
    ):
        logger.warning("other machines may ask without a key: NLPAPP_API_KEY is not set")
    serve_process.serve(settings, listening)
    return {}


def _open_once(config: Config) -> dict[str, ServedModel]:
    """Load the models here first: an error is then one message, not one of each process."""
    return open_models(config.models, precision=config.precision, threads=1)


def _check(config: Config, settings: Any, serve_process: Any) -> dict[str, float]:
    run = RunFolder.open(str(config.output_dir), config=config, command="serve", seed=0)
    if run.finished is not None:
        return run.finished
    served = _open_once(config)
    key = os.environ.get("NLPAPP_API_KEY")
    with serve_process.BackgroundServer(settings) as server:
        client = Client(server.url, key=key)
        ready = client.call("/ready")["status"] == "ready"
        answers = {name: _ask(client, model) for name, model in served.items()}
    if not ready:
        raise NlpappError("the server started, but is not ready.")
    (run.path / "answers.json").write_text(json.dumps(answers, indent=2), encoding="utf-8")
    metrics = {"models": float(len(answers)), "seconds": run.seconds}
    logger.info("the server answers; see %s", Path(run.path / "answers.json"))
    run.finish(metrics)
    return metrics


def _ask(client: Client, model: ServedModel) -> Any:
    text = "A good film."
    if model.kind == "encoder":
        (vector,) = client.embed([text], model=model.name, layer=model.describe()["layers"][-1])
        return {"embedding": vector}
    pairs = [text] if model.describe()["pairs"] else None
    (prediction,) = client.predict([text], pairs=pairs, model=model.name)
    return prediction
