"""Train a Transformer-XL language model on a text file."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nlpapp import seeding
from nlpapp.data.table_files import read_lines
from nlpapp.data.token_stream import StreamSteps, encode_file
from nlpapp.errors import ConfigError
from nlpapp.evaluation.model_card import write_model_card
from nlpapp.evaluation.plots import plot_curves
from nlpapp.evaluation.report import write_run_report
from nlpapp.models.generation import generate_ids
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.models.pretrained import save_model_folder
from nlpapp.models.transformer_xl import TransformerXLLMHeadModel, check_mem_len
from nlpapp.objectives.language_modeling import LanguageModelingObjective
from nlpapp.text.vocabulary import Vocabulary, build_vocabulary
from nlpapp.training.evaluate import evaluate_means
from nlpapp.training.fit import TrainingConfig, fit, set_seed
from nlpapp.training.optimizers import OptimizerConfig
from nlpapp.training.run_folder import RunFolder
from nlpapp.training.schedules import ScheduleConfig

logger = logging.getLogger("nlpapp")

SAMPLE_TOKENS = 100

USAGE = """nlpapp generate --model {folder} --prompt "The" --max_new_tokens 50
nlpapp evaluate-lm --model {folder} --text_file text.txt --output_dir runs/evaluate-lm"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Train a Transformer-XL language model on a text file."""

    train_file: str
    """UTF-8 text, read line by line; a line's end is the token <eos>."""
    valid_file: str
    """Text that chooses the best weights."""
    output_dir: str
    """Folder for checkpoints, metrics and the model."""
    test_file: str | None = None
    """Text scored once with the best weights; when absent, the validation text is."""
    vocabulary: str = "words"
    """words (separated by blanks), characters, or a tokenizer's folder."""
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
    evaluation_segment_length: int | None = None
    """Tokens of a lane that evaluation reads at once; absent: segment_length."""
    evaluation_mem_len: int | None = None
    """Positions of memory in evaluation, in tokens; absent: size.mem_len."""
    evaluation_batch_size: int = 8
    """Lanes in evaluation; each starts without a memory, so fewer score a little better."""
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
        check_mem_len(self.size.mem_len)
        check_mem_len(self.evaluation_mem_len or 0)
        for name in (
            "segment_length",
            "batch_size",
            "evaluation_segment_length",
            "evaluation_batch_size",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: {value} must be at least 1.")


def run(config: Config) -> dict[str, float]:
    """Train, keep the best weights, score them with and without memory, save a model folder."""
    run = RunFolder.open(config.output_dir, config=config, command="train-lm", seed=config.seed)
    if run.finished is not None:
        return run.finished
    vocabulary = build_vocabulary(
        config.vocabulary,
        (line for _, line in read_lines(Path(config.train_file))),
        min_frequency=config.min_frequency,
        max_size=config.max_size,
        source=config.train_file,
    )
    splits = ("train", "valid", "test") if config.test_file else ("train", "valid")
    steps = {split: _segments(config, vocabulary, run, split) for split in splits}
    model = _build_model(config, vocabulary)
    logger.info(
        "vocabulary: %d entries; training text: %d tokens, of which %d do not fill the lanes and "
        "are left out; model: %.2f M parameters",
        len(vocabulary),
        len(steps["train"].token_ids),
        steps["train"].num_trimmed,
        model.num_parameters() / 1e6,
    )

    def score(split: str, model: Any, mem_len: int | None) -> dict[str, float]:
        means = evaluate_means(model, LanguageModelingObjective(mem_len=mem_len), steps[split])
        return {f"{split}_{name}": value for name, value in means.items()}

    metrics = fit(
        run=run,
        model=model,
        objective=LanguageModelingObjective(),
        steps=steps["train"],
        training=config.training,
        seed=config.seed,
        evaluate=lambda model: score("valid", model, config.evaluation_mem_len),
        best_metric="valid_loss",
        greater_is_better=False,
        fingerprint=vocabulary.fingerprint(),
    )
    last = splits[-1]
    metrics |= score(last, model, config.evaluation_mem_len)
    without = score(last, model, 0)
    for name in (f"{last}_loss", f"{last}_perplexity"):
        metrics[f"{name}_without_memory"] = without[name]
        logger.info("%s %.4g, without memory %.4g", name, metrics[name], without[name])
    if run.is_main:
        _leave(run, model, vocabulary, metrics, seed=config.seed)
    run.finish(metrics)
    return metrics


def _segments(config: Config, vocabulary: Vocabulary, run: RunFolder, split: str) -> StreamSteps:
    text_file = getattr(config, f"{split}_file")
    scored = split != "train"
    return StreamSteps(
        encode_file(text_file, vocabulary, run.path / "cache" / f"{split}.npy"),
        num_lanes=config.evaluation_batch_size if scored else config.batch_size,
        segment_length=(config.evaluation_segment_length if scored else None)
        or config.segment_length,
        start_id=vocabulary.end_id,
        keep_all=scored,
        name=text_file,
    )


def _build_model(config: Config, vocabulary: Vocabulary) -> TransformerXLLMHeadModel:
    set_seed(config.seed, "weights")
    return open_language_model(
        None, size=config.size, vocab_size=len(vocabulary), fingerprint=vocabulary.fingerprint()
    )


def _sample_text(model: TransformerXLLMHeadModel, vocabulary: Vocabulary, seed: int) -> str:
    ids = generate_ids(
        model.eval(),
        [vocabulary.end_id],
        max_new_tokens=SAMPLE_TOKENS,
        rng=seeding.generator(seed, "sample text"),
        top_p=0.9,
        forbidden=[] if vocabulary.unknown_id is None else [vocabulary.unknown_id],
    )
    return vocabulary.decode(list(ids))


def _leave(
    run: RunFolder,
    model: TransformerXLLMHeadModel,
    vocabulary: Vocabulary,
    metrics: dict[str, float],
    *,
    seed: int,
) -> None:
    sample = _sample_text(model, vocabulary, seed)
    logger.info("sample of what the model writes: %s", sample)
    save_model_folder(model, run.model, tokenizer=vocabulary, fingerprint=vocabulary.fingerprint())
    run.plots.mkdir(exist_ok=True)
    plot_curves(run.path / "metrics.jsonl", run.plots / "curves.png")
    write_model_card(
        run.model,
        title="Transformer-XL language model",
        summary="Predicts the next token of a text, with a memory of past segments.",
        metrics=metrics,
        usage=USAGE.format(folder=run.model),
        run_folder=run.path,
        details={"vocabulary entries": len(vocabulary), "a sample of what it writes": sample},
    )
    write_run_report(run.path, metrics=metrics)
