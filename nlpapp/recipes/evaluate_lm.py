"""Score a language model on a text, with any length of memory; measure what context is worth."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nlpapp.data.token_stream import StreamSteps, encode_text
from nlpapp.errors import ConfigError
from nlpapp.evaluation.context_windows import compare_with_windows
from nlpapp.evaluation.effective_context import measure_effective_context
from nlpapp.evaluation.language_figures import plot_position_losses, text_figures
from nlpapp.evaluation.report import write_run_report
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.models.transformer_xl import check_mem_len, check_no_memory
from nlpapp.objectives.language_modeling import (
    LanguageModelingObjective,
    PositionObjective,
    position_losses,
)
from nlpapp.text.language_text import LanguageText
from nlpapp.text.vocabulary import Vocabulary, load_vocabulary
from nlpapp.training.evaluate import evaluate_means
from nlpapp.training.fit import set_seed
from nlpapp.training.processes import process_state
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Score a language model on a text, with any length of memory."""

    text_file: list[str] | str
    """Files, patterns, folders or hub:owner/name:config:split; every token is predicted, a line's
    end included."""
    output_dir: str
    """Folder for figures and report."""
    text_column: str | None = None
    """Column of the text in tables and data sets; absent: text, or the only one of strings."""
    model: str | None = None
    """Model folder of a train-lm run; absent: random weights, to try the command out."""
    vocabulary: str | None = None
    """Folder of its vocabulary or tokenizer; absent: the model's; random weights need one."""
    size: TransformerXLSizeConfig = field(default_factory=TransformerXLSizeConfig)
    """Size of the random model where no model is given."""
    mem_len: int | None = None
    """Positions of memory, in tokens; 0: none; absent: as in training."""
    clamp_len: int | None = None
    """Distances beyond it count as it; absent: as in training."""
    segment_length: int = 64
    """Tokens read at once; a larger number is faster and gives each token more context."""
    batch_size: int = 8
    """Stretches of the text read side by side; each starts without a memory, so fewer score a
    little better and 1 scores the text as it stands."""
    by_position: bool = False
    """Plot the loss by position in the segment, with and without memory: two more passes."""
    sliding_window: int = 0
    """Also predict tokens from a window of this length each, without memory, and compare loss and
    time with a memory of this length; 0: not."""
    window_tokens: int = 32
    """Tokens that windows predict, in each of four turns."""
    effective_context: int = 0
    """Measure the relative effective context length, trying contexts up to this; 0: not."""
    effective_context_step: int = 32
    """By how many tokens the contexts grow."""
    effective_context_tokens: int = 200
    """Tokens, evenly spread over the text, that are predicted from contexts of each length."""
    compared_with: list[str] = field(default_factory=list)
    """Model folders with the same vocabulary, whose effective context lengths are measured too. As
    in the paper, only what improves on the best of them all counts, token by token."""
    seed: int = 42
    """Seed of random weights."""

    def __post_init__(self) -> None:
        """Find what is wrong before anything is read."""
        if self.model is None and self.vocabulary is None:
            raise ConfigError("give --model, or --vocabulary for a model with random weights.")
        check_mem_len(self.mem_len or 0)
        least = {"sliding_window": 0, "effective_context": 0, "window_tokens": 1}
        for name in ("effective_context_step", "effective_context_tokens", "clamp_len"):
            least[name] = 1
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is not None and value < smallest:
                raise ConfigError(f"{name}: {value} must be at least {smallest}.")
        if 0 < self.effective_context < 2 * self.effective_context_step:
            raise ConfigError(
                f"effective_context: {self.effective_context} must be at least twice "
                f"effective_context_step, {self.effective_context_step}: there is nothing to "
                "compare otherwise."
            )
        if self.compared_with and not self.effective_context:
            raise ConfigError(
                f"compared_with: {', '.join(self.compared_with)} would not be used; give "
                "effective_context, the longest context to try, as well."
            )


def run(config: Config) -> dict[str, float]:
    """Return loss, perplexity, bits, word-level perplexity and the number of predicted tokens."""
    run = RunFolder.open(config.output_dir, config=config, command="evaluate-lm", seed=config.seed)
    if run.finished is not None:
        return run.finished
    vocabulary = load_vocabulary(str(config.vocabulary or config.model))
    set_seed(config.seed, "weights")
    folders = (config.model, *config.compared_with)
    models = [_open(config, folder, vocabulary) for folder in folders]
    model = models[0]
    _check_memory(config, model)
    text = LanguageText(config.text_file, text_column=config.text_column)
    with process_state().main_process_first():  # the others find the file
        token_ids = encode_text(text, vocabulary, run.path / "cache")
    steps = StreamSteps(
        token_ids,
        num_lanes=config.batch_size,
        segment_length=config.segment_length,
        start_id=vocabulary.end_id,
        name=text.name,
    )
    # First, because a text that is too short for them is noticed here.
    measured = _context_worth(config, run, models, token_ids) if run.is_main else {}
    metrics = evaluate_means(model, LanguageModelingObjective(mem_len=config.mem_len), steps)
    read = (token_ids, text.counts(vocabulary))
    metrics |= text_figures(metrics["loss"], *read, unknown_id=vocabulary.unknown_id)
    if config.by_position:
        _plot_positions(config, run, model, steps)
    metrics |= measured
    metrics["seconds"] = run.seconds
    logger.info(", ".join(f"{name} {value:.6g}" for name, value in metrics.items()))
    if run.is_main:
        write_run_report(run.path, metrics=metrics)
    run.finish(metrics)
    return metrics


def _open(config: Config, folder: str | None, vocabulary: Vocabulary) -> Any:
    model = open_language_model(
        folder,
        size=config.size,
        vocab_size=len(vocabulary),
        fingerprint=vocabulary.fingerprint(),
    )
    if config.clamp_len is not None:
        model.config.clamp_len = config.clamp_len
    return model.to(process_state().device)


def _check_memory(config: Config, model: Any) -> None:
    if model.config.position_embedding_type == "absolute":
        check_no_memory(config.mem_len or 0)
        if config.sliding_window:
            raise ConfigError(
                f"sliding_window: {config.sliding_window} is compared with a memory, which a model "
                "with absolute positions cannot have; give 0."
            )


def _plot_positions(config: Config, run: RunFolder, model: Any, steps: StreamSteps) -> None:
    remembered, alone = (
        position_losses(evaluate_means(model, PositionObjective(mem_len=mem_len), steps))
        for mem_len in (config.mem_len, 0)
    )
    if run.is_main:
        output = run.plots / "loss_by_position.png"
        plot_position_losses(np.array(remembered), np.array(alone), output)


def _context_worth(
    config: Config, run: RunFolder, models: Sequence[Any], token_ids: np.ndarray
) -> dict[str, float]:
    found: dict[str, float] = {}
    if config.sliding_window:
        compared = compare_with_windows(
            models[0],
            token_ids,
            attention_length=config.sliding_window,
            segment_length=config.segment_length,
            num_windows=config.window_tokens,
            num_tokens=max(config.window_tokens, 4 * config.segment_length),
        )
        figures = dataclasses.asdict(compared).items()
        found |= {f"sliding_{name}": float(value) for name, value in figures}
    if config.effective_context:
        step = config.effective_context_step
        found |= measure_effective_context(
            models,
            [config.model or "random weights", *config.compared_with],
            token_ids,
            lengths=range(step, config.effective_context + 1, step),
            num_targets=config.effective_context_tokens,
            plot=run.plots / "effective_context.png",
        )
    return found
