"""Score a language model on a text, with any length of memory."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nlpapp.data.table_files import read_lines
from nlpapp.data.token_stream import StreamSteps, encode_file
from nlpapp.errors import ConfigError
from nlpapp.evaluation.report import write_run_report
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.models.transformer_xl import check_mem_len
from nlpapp.objectives.language_modeling import LanguageModelingObjective
from nlpapp.text.vocabulary import load_vocabulary
from nlpapp.training.evaluate import evaluate_means
from nlpapp.training.fit import set_seed
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Score a language model on a text, with any length of memory."""

    text_file: str
    """UTF-8 text; every token of it is predicted, a line's end included."""
    output_dir: str
    """Folder for figures and report."""
    model: str | None = None
    """Model folder of a train-lm run; absent: random weights, to try the command out."""
    vocabulary: str | None = None
    """Folder of its vocabulary or tokenizer; absent: the model's; random weights need one."""
    size: TransformerXLSizeConfig = field(default_factory=TransformerXLSizeConfig)
    """Size of the random model where no model is given."""
    mem_len: int | None = None
    """Positions of memory, in tokens; 0: none; absent: as in training."""
    segment_length: int = 64
    """Tokens read at once; a larger number is faster and gives each token more context."""
    batch_size: int = 8
    """Stretches of the text read side by side; each starts without a memory, so fewer score a
    little better and 1 scores the text as it stands."""
    seed: int = 42
    """Seed of random weights."""

    def __post_init__(self) -> None:
        """Find what is wrong before anything is read."""
        if self.model is None and self.vocabulary is None:
            raise ConfigError("give --model, or --vocabulary for a model with random weights.")
        check_mem_len(self.mem_len or 0)


def run(config: Config) -> dict[str, float]:
    """Return loss, perplexity, bits per token and character, and the number of predicted tokens."""
    run = RunFolder.open(config.output_dir, config=config, command="evaluate-lm", seed=config.seed)
    if run.finished is not None:
        return run.finished
    vocabulary = load_vocabulary(str(config.vocabulary or config.model))
    set_seed(config.seed, "weights")
    model = open_language_model(
        config.model,
        size=config.size,
        vocab_size=len(vocabulary),
        fingerprint=vocabulary.fingerprint(),
    )
    token_ids = encode_file(config.text_file, vocabulary, run.path / "cache" / "text.npy")
    steps = StreamSteps(
        token_ids,
        num_lanes=config.batch_size,
        segment_length=config.segment_length,
        start_id=vocabulary.end_id,
        keep_all=True,
        name=config.text_file,
    )
    metrics = evaluate_means(model, LanguageModelingObjective(mem_len=config.mem_len), steps)
    characters = count_characters(line for _, line in read_lines(Path(config.text_file)))
    metrics["predicted_tokens"] = float(steps.num_predicted)
    metrics["bits_per_character"] = metrics["loss"] * steps.num_predicted / math.log(2) / characters
    if vocabulary.unknown_id is not None:
        metrics["unknown_rate"] = float((token_ids == vocabulary.unknown_id).mean())
    metrics["seconds"] = run.seconds
    logger.info(", ".join(f"{name} {value:.6g}" for name, value in metrics.items()))
    if run.is_main:
        write_run_report(run.path, metrics=metrics)
    run.finish(metrics)
    return metrics


def count_characters(lines: Iterator[str]) -> int:
    """Return the characters of ``lines``, one for the end of each line included."""
    return sum(len(line) + 1 for line in lines)
