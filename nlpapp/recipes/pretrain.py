"""Pretrain a BERT on the shards that make-data wrote."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import BertForPreTraining, PreTrainedTokenizerBase

from nlpapp.data.collate import PretrainingCollator
from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.data.sampling import ExampleSteps
from nlpapp.errors import ConfigError
from nlpapp.evaluation.model_card import write_model_card
from nlpapp.evaluation.plots import plot_curves
from nlpapp.evaluation.report import write_run_report
from nlpapp.models.bert import BertPretrainingModel, apply_similarity_start
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.pretrained import (
    check_sequence_length,
    check_tokenizer_fits,
    load_pretrained,
    save_model_folder,
)
from nlpapp.objectives.bert_pretraining import BertPretrainingObjective
from nlpapp.text.wordpiece import check_fingerprint, fingerprint, load_tokenizer
from nlpapp.training.evaluate import evaluate_means
from nlpapp.training.fit import TrainingConfig, fit, set_seed
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger("nlpapp")

USAGE = """from transformers import AutoModelForMaskedLM, AutoTokenizer

model = AutoModelForMaskedLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Pretrain a BERT: masked language model, and next sentence where the data has it."""

    data: str
    """Folder that make-data wrote: the training data."""
    tokenizer: str
    """Tokenizer that the data was made with: a Hugging Face folder or a vocab.txt."""
    output_dir: str
    """Folder for checkpoints, metrics and the model."""
    evaluation_data: str | None = None
    """Folder that make-data wrote from held-out text; its masks are the same at each evaluation."""
    model: str | None = None
    """BERT folder to start from (domain adaptation); when absent, size gives a random one."""
    size: BertSizeConfig = field(default_factory=BertSizeConfig)
    """Size of a model that starts from random weights."""
    batch_size: int = 64
    """Sequences in one optimizer step, over all processes and micro-batches."""
    tokens_per_batch: int | None = None
    """Padded tokens in one optimizer step at most; batch_size is then not used."""
    evaluation_batch_size: int = 64
    """Sequences in one evaluation batch."""
    group_by_length: bool = True
    """Put sequences of similar length in one batch: less padding."""
    seed: int = 42
    """Seed of weights, order, dynamic masks and dropout."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            num_epochs=3, optimizer=OptimizerConfig(learning_rate=5e-4)
        )
    )
    """How long and how to train."""


def run(config: Config) -> dict[str, float]:
    """Pretrain, evaluate, and save a model folder that transformers loads."""
    run = RunFolder.open(config.output_dir, config=config, command="pretrain", seed=config.seed)
    if run.finished is not None:
        return run.finished
    tokenizer = load_tokenizer(config.tokenizer)
    data = _open_data(config.data, tokenizer)
    held_out = _open_data(config.evaluation_data, tokenizer) if config.evaluation_data else None
    bert = _build_bert(config, tokenizer, [data] + ([held_out] if held_out else []))
    model = BertPretrainingModel(bert)
    objective = BertPretrainingObjective()

    def evaluate(model: torch.nn.Module) -> dict[str, float]:
        return evaluate_means(model, objective, evaluation_steps)

    before: dict[str, float] = {}
    if held_out is not None:
        evaluation_steps = _evaluation_steps(config, held_out, tokenizer)
        before = {f"initial_{name}": value for name, value in evaluate(model).items()}
    metrics = before | fit(
        run=run,
        model=model,
        objective=objective,
        steps=ExampleSteps(
            len(data),
            PretrainingCollator(data, tokenizer, seed=config.seed),
            batch_size=config.batch_size,
            seed=config.seed,
            lengths=data.lengths if config.group_by_length else None,
            tokens_per_batch=config.tokens_per_batch,
        ),
        training=config.training,
        seed=config.seed,
        evaluate=evaluate if held_out is not None else None,
        fingerprint=fingerprint(tokenizer),
    )
    if run.is_main:
        _leave(run, bert, tokenizer, metrics, data)
    run.finish(metrics)
    return metrics


def _open_data(folder: str, tokenizer: PreTrainedTokenizerBase) -> PretrainingData:
    data = PretrainingData.open(Path(folder))
    check_fingerprint(
        found=fingerprint(tokenizer),
        expected=data.manifest["tokenizer_fingerprint"],
        found_in="the tokenizer option",
        expected_by=f"the data in {folder}",
    )
    if len(data) == 0:
        raise ConfigError(f"the data in {folder} holds no instances; make it from more text")
    return data


def _build_bert(
    config: Config, tokenizer: PreTrainedTokenizerBase, sets: list[PretrainingData]
) -> BertForPreTraining:
    set_seed(config.seed, "weights")
    if config.model is not None:
        bert: BertForPreTraining = load_pretrained(BertForPreTraining, config.model)
    else:
        pad = tokenizer.pad_token_id
        bert = BertForPreTraining(
            bert_config(config.size, vocab_size=len(tokenizer), pad_token_id=pad)
        )
        apply_similarity_start(bert)
    for data in sets:
        check_sequence_length(bert, int(data.lengths.max()))
    check_tokenizer_fits(bert, vocab_size=len(tokenizer), fingerprint=fingerprint(tokenizer))
    logger.info("model: %.2f M parameters", bert.num_parameters() / 1e6)
    return bert


def _evaluation_steps(
    config: Config, data: PretrainingData, tokenizer: PreTrainedTokenizerBase
) -> ExampleSteps:
    collate = PretrainingCollator(data, tokenizer, seed=config.seed, fixed_masks=True)
    return ExampleSteps(len(data), collate, batch_size=config.evaluation_batch_size, shuffle=False)


def _leave(
    run: RunFolder,
    bert: BertForPreTraining,
    tokenizer: PreTrainedTokenizerBase,
    metrics: dict[str, float],
    data: PretrainingData,
) -> None:
    save_model_folder(bert, run.model, tokenizer=tokenizer, fingerprint=fingerprint(tokenizer))
    run.plots.mkdir(exist_ok=True)
    plot_curves(run.path / "metrics.jsonl", run.plots / "curves.png")
    write_model_card(
        run.model,
        title="BERT pretrained with nlpapp",
        summary="A BERT trained from text on masked tokens and, where the data has pairs, on next "
        "sentences.",
        metrics=metrics,
        usage=USAGE.format(folder=run.model),
        run_folder=run.path,
        details={"training data": data.manifest["options"], "counts": data.manifest["counts"]},
    )
    run.finish(metrics)
    write_run_report(run.path)
