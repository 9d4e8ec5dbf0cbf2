"""Pretrain a BERT on the shards that make-data wrote, in one phase or in several."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from transformers import BertForPreTraining
from transformers import PreTrainedTokenizerBase as Tokenizer

from nlpapp.data.collate import PretrainingCollator
from nlpapp.data.cooccurrence import count_cooccurrences
from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.data.pretraining_sets import describe_sets, max_seq_length, open_sets, summarize
from nlpapp.data.sampling import ExampleSteps
from nlpapp.errors import ConfigError
from nlpapp.evaluation.plots import plot_curves
from nlpapp.evaluation.pretraining_report import leave_pretraining_report
from nlpapp.models.bert import BertPretrainingModel
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.bert_start import build_pretraining_bert, check_start, positions_of
from nlpapp.models.initial_words import counted_words
from nlpapp.models.pretrained import load_pretrained, save_model_folder
from nlpapp.models.training_costs import training_costs
from nlpapp.objectives.bert_pretraining import BertPretrainingObjective
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from nlpapp.training.evaluate import evaluate_means
from nlpapp.training.fit import TrainingConfig, fit, resumes, set_seed
from nlpapp.training.hub import HubConfig, check_hub, push_folder
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.phases import PhaseConfig, check_phases, run_phases
from nlpapp.training.processes import from_main_process, process_state
from nlpapp.training.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Config:
    """Pretrain a BERT: masked language model, and next sentence where the data has it."""

    tokenizer: str
    """Tokenizer that the data was made with: a Hugging Face folder or a vocab.txt."""
    output_dir: str
    """Folder for checkpoints, metrics and the model."""
    data: str | None = None
    """Folder that make-data wrote: the training data."""
    evaluation_data: str | None = None
    """Folder that make-data wrote from held-out text; its masks are the same at each evaluation."""
    phases: list[PhaseConfig] | None = None
    """In place of data: several phases, such as 128 and then 512 tokens, one after the other."""
    model: str | None = None
    """BERT folder to start from (domain adaptation); when absent, size gives a random one."""
    size: BertSizeConfig = field(default_factory=BertSizeConfig)
    """Size of a model that starts from random weights."""
    word_start: bool = False
    """Start random weights with word vectors and output biases that are counted in the training
    data: which tokens stand near each other, and how often each occurs. It takes seconds (base:
    minutes) and saves the steps in which training finds that out."""
    batch_size: int = 64
    """Sequences in one optimizer step, over all processes and micro-batches."""
    tokens_per_batch: int | None = None
    """Padded tokens in one optimizer step at most; batch_size is then not used."""
    evaluation_batch_size: int = 64
    """Sequences in one evaluation batch."""
    group_by_length: bool = True
    """Put sequences of similar length in one batch: less padding."""
    unpad: bool = False
    """Compute nothing for padding: the tokens of all sequences lie behind one another."""
    seed: int = 42
    """Seed of weights, order, dynamic masks and dropout."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(optimizer=OptimizerConfig(learning_rate=5e-4))
    )
    """How long and how to train."""
    hub: HubConfig = field(default_factory=HubConfig)
    """Where the model is pushed to when it is trained."""

    def __post_init__(self) -> None:
        if self.phases is not None and (self.data or self.evaluation_data or not self.phases):
            raise ConfigError("phases have their own data: give data, or at least one phase")
        if self.phases is None and self.data is None:
            raise ConfigError("data is missing: give the folder that make-data wrote, or phases")
        for name in ("batch_size", "evaluation_batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")


def run(config: Config) -> dict[str, float]:
    """Pretrain, evaluate, and save a model folder that transformers loads."""
    usual = config.training.optimizer.learning_rate
    rates = [phase.learning_rate or usual for phase in config.phases or []] or [usual]
    check_start(config.model, config.size, max(rates), word_start=config.word_start)
    return _run(config)


def _run(config: Config) -> dict[str, float]:
    run = RunFolder.open(config.output_dir, config=config, command="pretrain", seed=config.seed)
    if run.is_main:
        check_hub(config.hub)
    metrics = run.finished
    if metrics is None:
        tokenizer = load_tokenizer(config.tokenizer)
        train = _train if config.phases is None else _train_phases
        bert, metrics = train(config, run, tokenizer)
        if run.is_main:
            _leave(config, run, bert, tokenizer, metrics)
        run.finish(metrics)
    if run.is_main:  # Also what an earlier start made: the option may be new.
        push_folder(config.hub, run.model)
    return metrics


def _train_phases(
    config: Config, run: RunFolder, tokenizer: Tokenizer
) -> tuple[BertForPreTraining, dict[str, float]]:
    """Train each phase as a run of its own in a folder of ``run``."""
    phases = config.phases or []

    def config_of(phase: PhaseConfig, model: str | None) -> Any:
        return phase.config(config, output_dir=run.path / phase.name, model=model or config.model)

    def check(phase: PhaseConfig) -> None:
        _steps(config_of(phase, None), PretrainingData.open(phase.data), tokenizer)

    positions = positions_of(config.model, config.size, vocab_size=len(tokenizer))
    check_phases(phases, lambda folder: max_seq_length(folder, tokenizer), positions, check)
    metrics = run_phases(run, phases, lambda phase, model: _run(config_of(phase, model)))
    return load_pretrained(BertForPreTraining, run.path / phases[-1].name / "model"), metrics


def _steps(config: Config, data: PretrainingData, tokenizer: Tokenizer) -> ExampleSteps:
    steps = ExampleSteps(
        len(data),
        PretrainingCollator(data, tokenizer, seed=config.seed),
        batch_size=config.batch_size,
        seed=config.seed,
        lengths=data.lengths if config.group_by_length else None,
        tokens_per_batch=config.tokens_per_batch,
    )
    steps.check_processes(process_state().num_processes)
    return steps


def _train(
    config: Config, run: RunFolder, tokenizer: Tokenizer
) -> tuple[BertForPreTraining, dict[str, float]]:
    training, objective = config.training, BertPretrainingObjective()
    data, held_out = open_sets(str(config.data), config.evaluation_data, tokenizer)
    count = partial(counted_words, partial(count_cooccurrences, data, tokenizer))
    counts = config.word_start and not resumes(run, training.resume)
    set_seed(config.seed, "weights")
    bert = build_pretraining_bert(
        config.model,
        size=config.size,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        fingerprint=fingerprint(tokenizer),
        longest=max(int(part.lengths.max()) for part in (data, held_out) if part is not None),
        count_words=partial(from_main_process, count) if counts else None,
    )
    steps = _steps(config, data, tokenizer)
    parts = process_state().num_processes * training.gradient_accumulation_steps
    summary = summarize(data, steps, parts=parts)
    figures = summary.figures() | training_costs(bert, **summary.reading(), **training.costs())
    evaluate = None
    if held_out is not None:
        collate = PretrainingCollator(held_out, tokenizer, seed=config.seed, fixed_masks=True)
        size = config.evaluation_batch_size
        held_out_steps = ExampleSteps(len(held_out), collate, batch_size=size, shuffle=False)
        evaluate = partial(evaluate_means, objective=objective, steps=held_out_steps)
    return bert, figures | fit(
        run=run,
        model=BertPretrainingModel(bert, unpad=config.unpad),
        objective=objective,
        steps=steps,
        training=training,
        seed=config.seed,
        evaluate=evaluate,
        evaluate_at_start=True,
        fingerprint=fingerprint(tokenizer),
        data_fingerprint=data.fingerprint,
        flops_per_token=figures["flops_per_token"],
        draw_curves=plot_curves,
    )


def _leave(
    config: Config,
    run: RunFolder,
    bert: BertForPreTraining,
    tokenizer: Tokenizer,
    metrics: dict[str, float],
) -> None:
    save_model_folder(bert, run.model, tokenizer=tokenizer, fingerprint=fingerprint(tokenizer))
    sets = [phase.data for phase in config.phases or []] or [str(config.data)]
    leave_pretraining_report(run.path, metrics=metrics, details=describe_sets(sets))
