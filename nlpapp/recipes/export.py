"""Turn a classifier, an encoder or a language model into a bundle that runs without PyTorch."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from transformers import AutoModel

from nlpapp.deployment import export as bundles
from nlpapp.errors import ConfigError
from nlpapp.evaluation.report import write_run_report
from nlpapp.models import pretrained
from nlpapp.models.bilstm import BiLstmSizeConfig, build_bilstm
from nlpapp.models.classifiers import local_folder
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.recipes.export_data import calibration_texts, read_dev_set
from nlpapp.text.vocabulary import load_vocabulary
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from nlpapp.training.fit import set_seed
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Turn a model into a bundle (ONNX, tokenizer, model card) that runs without PyTorch."""

    output_dir: str
    """Folder for the run; the bundle is the folder bundle/ in it."""
    model: str | None = None
    """Model to export: a folder or a Hub name; absent: a random BiLSTM, to try this out."""
    kind: Literal["auto", "classifier", "encoder", "language-model"] = "auto"
    """What the bundle answers with; auto: what the model's config.json says."""
    tokenizer: str | None = None
    """Tokenizer folder or vocab.txt (of a language model: vocabulary); absent: the model's."""
    student: BiLstmSizeConfig = field(default_factory=BiLstmSizeConfig)
    """Size of the random BiLSTM where no model is given."""
    max_seq_length: int = 128
    """Tokens that the bundle reads of a text, special ones included; longer texts are cut."""
    layers: list[int] = field(default_factory=lambda: [-1])
    """Of an encoder: layers whose hidden states the bundle gives; 0: embeddings, -1: the last."""
    mem_len: int | None = None
    """Of a language model: positions of memory; absent: as in training."""
    int8: bool = True
    """Also write the model with 8-bit weights: about a quarter of the size."""
    formats: list[str] = field(default_factory=list)
    """More formats: fp16, int8-static, torch-export, safetensors."""
    calibration_file: str | None = None
    """TSV, CSV or JSONL file whose first texts set the ranges of int8-static."""
    file: str | None = None
    """Labelled file, on which the exported classifier must keep its metric."""
    task: str | None = None
    """GLUE task instead of a file; its dev set in data_dir is used."""
    data_dir: str | None = None
    """Folder with GLUE (official files, or parquet as on the Hub)."""
    text_column: str | None = None
    """Column of the text in both files; absent: sentence, text, sentence1 or text_a."""
    text_pair_column: str | None = None
    """Column of the second text of a pair; absent: sentence2 or text_b, if text_column is too."""
    label_column: str | None = None
    """Column of the label; absent: label."""
    max_metric_drop: float = 0.01
    """How much of the metric the smaller models may lose on that data; 0.01: one point of 100."""
    parity_batches: int = 200
    """Random batches on which every format is compared with PyTorch."""
    seed: int = 42
    """Seed of these batches, of bootstrap intervals, and of random weights."""

    def __post_init__(self) -> None:
        if self.parity_batches < 4:
            raise ConfigError(f"parity_batches is {self.parity_batches}; use at least 4.")
        if (self.task is None) != (self.data_dir is None):
            raise ConfigError("--task and --data_dir, the folder that holds GLUE, go together.")
        if self.task is not None and self.file is not None:
            raise ConfigError("give either --file or --task, not both.")


def run(config: Config) -> dict[str, float]:
    """Export, compare with PyTorch, and leave the bundle."""
    run = RunFolder.open(config.output_dir, config=config, command="export", seed=config.seed)
    if run.finished is not None:
        return run.finished
    folder = local_folder(config.model) if config.model is not None else None
    bundle = run.path / "bundle"
    kind = _kind(config, folder)
    if kind != "classifier" and (config.file or config.task):
        raise ConfigError(f"--file and --task are for classifiers; this is a model of kind {kind}.")
    options: dict[str, Any] = {"int8": config.int8, "formats": config.formats, "seed": config.seed}
    options |= {"batches": config.parity_batches, "facts": {"made from": config.model or "nothing"}}
    if kind == "language-model":
        vocabulary = load_vocabulary(str(config.tokenizer or folder))
        model: Any = open_language_model(
            folder,
            size=TransformerXLSizeConfig(),
            vocab_size=len(vocabulary),
            fingerprint=vocabulary.fingerprint(),
        )
        options["mem_len"] = config.mem_len
        metrics = bundles.export_language_model(model, vocabulary, bundle, **options)
    else:
        tokenizer = load_tokenizer(str(config.tokenizer or folder))
        model = _load(config, folder, tokenizer, kind)
        pretrained.check_tokenizer_fits(
            model, vocab_size=len(tokenizer), fingerprint=fingerprint(tokenizer)
        )
        options |= {
            "max_seq_length": config.max_seq_length,
            "calibration": calibration_texts(config),
        }
        if kind == "encoder":
            metrics = bundles.export_encoder(
                model, tokenizer, bundle, layers=config.layers, **options
            )
        else:
            dev = read_dev_set(config, model, options["facts"])
            metrics = bundles.export_classifier(model, tokenizer, bundle, dev=dev, **options)
    logger.info("bundle: %s", bundle)
    logger.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    write_run_report(run.path, metrics=metrics)
    run.finish(metrics)
    return metrics


def _kind(config: Config, folder: Path | None) -> str:
    if folder is None and (config.tokenizer is None or config.kind not in ("auto", "classifier")):
        raise ConfigError("give --model, or --tokenizer for a random BiLSTM of --student.")
    if folder is None or config.kind != "auto":
        return "classifier" if config.kind == "auto" else config.kind
    found = pretrained.read_config(folder)
    classifies = any("SequenceClassification" in head for head in found.architectures or [])
    if found.model_type == "transformer_xl" and not classifies:
        return "language-model"
    if found.architectures and not classifies:
        return "encoder"
    if classifies and found.model_type not in bundles.SUPPORTED:
        raise ConfigError(
            f"{folder} holds a classifier of type '{found.model_type}', whose export is not "
            f"supported; supported are {', '.join(bundles.SUPPORTED)}."
        )
    return "classifier"


def _load(config: Config, folder: Path | None, tokenizer: Any, kind: str) -> Any:
    if folder is not None:
        if kind == "encoder":
            return pretrained.load_pretrained(AutoModel, folder).eval()
        return pretrained.load_classifier(folder)
    logger.warning("no model is given: a BiLSTM with random weights is exported")
    set_seed(config.seed, "weights")
    return build_bilstm(
        config.student,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        label_names=("LABEL_0", "LABEL_1"),
    )
