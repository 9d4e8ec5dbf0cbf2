"""Train a Transformer-XL language model on any text."""

import logging
from dataclasses import dataclass, field
from typing import Any

from nlpapp import seeding
from nlpapp.data.token_stream import StreamSteps, check_training_length, encode_text
from nlpapp.errors import ConfigError
from nlpapp.evaluation.language_figures import text_figures
from nlpapp.evaluation.language_report import SampleTexts, leave_language_report
from nlpapp.models.generation import sample_text
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.models.pretrained import save_model_folder
from nlpapp.models.transformer_xl import TransformerXLLMHeadModel, check_mem_len, check_no_memory
from nlpapp.objectives.language_modeling import LanguageModelingObjective
from nlpapp.text.language_text import LanguageText
from nlpapp.text.vocabulary import Vocabulary, build_vocabulary
from nlpapp.training.evaluate import evaluate_means
from nlpapp.training.fit import TrainingConfig, fit, set_seed
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.processes import process_state
from nlpapp.training.run_folder import RunFolder
from nlpapp.training.schedules import ScheduleConfig

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a Transformer-XL language model on any text."""

    train_file: list[str] | str
    """Files (packed or not), patterns, folders, or data sets such as hub:owner/name:config:split,
    read line by line; a line's end is the token <eos>. Of enwik8[:90000000] these bytes."""
    valid_file: list[str] | str
    """Text that chooses the best weights."""
    output_dir: str
    """Folder for checkpoints, metrics and the model."""
    test_file: list[str] | str | None = None
    """Text scored once with the best weights; when absent, the validation text is."""
    text_column: str | None = None
    """Column of the text in tables and data sets; absent: text, or the only one of strings."""
    vocabulary: str = "words"
    """words (separated by blanks), characters, bytes, or a tokenizer's folder."""
    min_frequency: int = 2
    """Words or characters seen less often in the training text become <unk>."""
    max_size: int | None = None
    """Most words or characters of the vocabulary, <unk> and <eos> included; absent: no limit."""
    size: TransformerXLSizeConfig = field(default_factory=TransformerXLSizeConfig)
    """Size of the model."""
    segment_length: int = 64
    """Tokens of a lane in one optimizer step."""
    batch_size: int = 16
    """Lanes read side by side, over all processes and micro-batches."""
    variable_segment_length: bool = False
    """Draw the length of each training segment around segment_length, anew in each epoch."""
    shuffle_lanes: bool = False
    """Draw which row of the batch begins with which lane, so that each process reads from all over
    the text; in the next epoch, too, every row goes on where it ended."""
    evaluation_segment_length: int | None = None
    """Tokens of a lane that evaluation reads at once; absent: segment_length."""
    evaluation_mem_len: int | None = None
    """Positions of memory in evaluation, in tokens; absent: size.mem_len."""
    evaluation_batch_size: int = 8
    """Lanes in evaluation; each starts without a memory, so fewer score a little better."""
    memory_ablation: list[int] = field(default_factory=lambda: [0])
    """Lengths of memory that the final weights are scored with as well, in tokens."""
    sample_tokens: int = 100
    """Tokens that the model writes at each evaluation, to see it learn."""
    seed: int = 42
    """Seed of weights, dropout and the sample text."""
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            num_epochs=10,
            max_grad_norm=0.25,
            optimizer=OptimizerConfig(learning_rate=1e-3, weight_decay=0.0, epsilon=1e-8),
            schedule=ScheduleConfig(name="cosine", warmup_ratio=0.02),
        )
    )
    """How long and how to train."""

    def __post_init__(self) -> None:
        """Find what is wrong before any text is read."""
        check = check_no_memory if self.size.absolute_positions else check_mem_len
        for mem_len in (self.size.mem_len, self.evaluation_mem_len or 0, *self.memory_ablation):
            check(mem_len)
        lengths = ("segment_length", "evaluation_segment_length", "sample_tokens")
        for name in (*lengths, "batch_size", "evaluation_batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name}: {value} must be at least 1.")


def run(config: Config) -> dict[str, float]:
    """Train, keep the best weights, score them with and without memory, save a model folder."""
    run = RunFolder.open(config.output_dir, config=config, command="train-lm", seed=config.seed)
    if run.finished is not None:
        return run.finished
    splits = ("train", "valid", "test") if config.test_file else ("train", "valid")
    texts = {
        split: LanguageText(getattr(config, f"{split}_file"), text_column=config.text_column)
        for split in splits
    }
    vocabulary = build_vocabulary(
        config.vocabulary,
        texts["train"].lines(),
        min_frequency=config.min_frequency,
        max_size=config.max_size,
        source=texts["train"].name,
    )
    steps = {split: _segments(config, texts[split], vocabulary, run, split) for split in splits}
    set_seed(config.seed, "weights")
    model = open_language_model(
        None, size=config.size, vocab_size=len(vocabulary), fingerprint=vocabulary.fingerprint()
    )
    logger.info(
        "vocabulary: %d entries; training text: %d tokens; model: %.2f M parameters",
        len(vocabulary), len(steps["train"].token_ids), model.num_parameters() / 1e6,
    )  # fmt: skip
    samples = SampleTexts(run.path)

    def score(split: str, model: Any, mem_len: int | None) -> dict[str, float]:
        means = evaluate_means(model, LanguageModelingObjective(mem_len=mem_len), steps[split])
        return {f"{split}_{name}": value for name, value in means.items()}

    def evaluate(model: Any) -> dict[str, float]:
        metrics = score("valid", model, config.evaluation_mem_len)
        text = _sample(model, vocabulary, config)  # With pieces of weights all have to take part.
        if run.is_main:
            samples.add(metrics["valid_loss"], text)
        return metrics

    last = splits[-1]
    counts = texts[last].counts(vocabulary)  # Before the training: the text may change meanwhile.
    metrics = fit(
        run=run,
        model=model,
        objective=LanguageModelingObjective(),
        steps=steps["train"],
        training=config.training,
        seed=config.seed,
        evaluate=evaluate,
        best_metric="valid_loss",
        greater_is_better=False,
        fingerprint=vocabulary.fingerprint(),
        data_fingerprint=steps["train"].fingerprint,
    )
    metrics |= score(last, model, config.evaluation_mem_len)
    read = (steps[last].token_ids, counts)
    figures = text_figures(metrics[f"{last}_loss"], *read, unknown_id=vocabulary.unknown_id)
    metrics |= {f"{last}_{name}": value for name, value in figures.items()}
    for mem_len in config.memory_ablation:
        other = score(last, model, mem_len)
        ending = f"mem_len_{mem_len}" if mem_len else "without_memory"
        for name in (f"{last}_loss", f"{last}_perplexity"):
            metrics[f"{name}_{ending}"] = other[name]
            logger.info("%s %.4g, %s %.4g", name, metrics[name], ending, other[name])
    if run.is_main:
        fingerprint = vocabulary.fingerprint()
        save_model_folder(model, run.model, tokenizer=vocabulary, fingerprint=fingerprint)
        details = {"a sample of what it writes": _sample(model, vocabulary, config)}
        leave_language_report(run.path, metrics=metrics, details=details)
    run.finish(metrics)
    return metrics


def _segments(
    config: Config, text: LanguageText, vocabulary: Vocabulary, run: RunFolder, split: str
) -> StreamSteps:
    # The others find the file; before the main process is here, the folder is not the run's yet.
    with process_state().main_process_first():
        token_ids = encode_text(text, vocabulary, run.path / "cache")
    if split != "train":
        return StreamSteps(
            token_ids,
            num_lanes=config.evaluation_batch_size,
            segment_length=config.evaluation_segment_length or config.segment_length,
            start_id=vocabulary.end_id,
            name=text.name,
        )
    shares = process_state().num_processes * config.training.gradient_accumulation_steps
    check_training_length(
        len(token_ids), config.batch_size, config.segment_length, text.name, shares=shares
    )
    return StreamSteps(
        token_ids,
        num_lanes=config.batch_size,
        segment_length=config.segment_length,
        start_id=vocabulary.end_id,
        seed=config.seed,
        shuffle_lanes=config.shuffle_lanes,
        variable_length=config.variable_segment_length,
        name=text.name,
    )


def _sample(model: TransformerXLLMHeadModel, vocabulary: Vocabulary, config: Config) -> str:
    rng = seeding.generator(config.seed, "sample text")
    return sample_text(model.eval(), vocabulary, max_new_tokens=config.sample_tokens, rng=rng)
