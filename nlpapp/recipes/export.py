"""Turn a classifier into a bundle that runs without PyTorch."""

import logging
from dataclasses import dataclass, field
from typing import Any

from nlpapp.deployment.export import export_classifier
from nlpapp.errors import ConfigError
from nlpapp.evaluation.report import write_run_report
from nlpapp.models.bilstm import BiLstmSizeConfig, build_bilstm
from nlpapp.models.classifiers import local_folder
from nlpapp.models.pretrained import check_tokenizer_fits, load_classifier
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from nlpapp.training.fit import set_seed
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Turn a classifier into a bundle (ONNX, tokenizer, labels) that runs without PyTorch."""

    output_dir: str
    """Folder for the run; the bundle is the folder bundle/ in it."""
    model: str | None = None
    """Classifier to export: a folder or a Hub name; absent: a random BiLSTM, to try this out."""
    tokenizer: str | None = None
    """Tokenizer folder or vocab.txt; absent: the one in the model's folder."""
    student: BiLstmSizeConfig = field(default_factory=BiLstmSizeConfig)
    """Size of the random BiLSTM where no model is given."""
    max_seq_length: int = 128
    """Tokens that the bundle reads of a text, special ones included; longer texts are cut."""
    int8: bool = True
    """Also write the model with 8-bit weights: about a quarter of the size."""
    seed: int = 42
    """Seed of the batches on which the exported model is compared, and of random weights."""


def run(config: Config) -> dict[str, float]:
    """Export, compare with PyTorch, and leave the bundle."""
    run = RunFolder.open(config.output_dir, config=config, command="export", seed=config.seed)
    if run.finished is not None:
        return run.finished
    tokenizer, model = _load(config)
    check_tokenizer_fits(model, vocab_size=len(tokenizer), fingerprint=fingerprint(tokenizer))
    metrics = export_classifier(
        model,
        tokenizer,
        run.path / "bundle",
        max_seq_length=config.max_seq_length,
        int8=config.int8,
        seed=config.seed,
    )
    logger.info("bundle: %s", run.path / "bundle")
    logger.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    write_run_report(run.path, metrics=metrics)
    run.finish(metrics)
    return metrics


def _load(config: Config) -> tuple[Any, Any]:
    if config.model is None and config.tokenizer is None:
        raise ConfigError("give --model, or --tokenizer for a random BiLSTM of --student.")
    folder = local_folder(config.model) if config.model is not None else None
    if folder is not None:
        model = load_classifier(folder)
        return load_tokenizer(config.tokenizer or str(folder)), model
    tokenizer = load_tokenizer(str(config.tokenizer))
    logger.warning("no model is given: a BiLSTM with random weights is exported")
    set_seed(config.seed, "weights")
    return tokenizer, build_bilstm(
        config.student,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        label_names=("LABEL_0", "LABEL_1"),
    )
