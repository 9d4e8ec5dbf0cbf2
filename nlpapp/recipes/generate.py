"""Continue a prompt with a language model."""

import logging
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nlpapp import seeding
from nlpapp.errors import ConfigError
from nlpapp.models.generation import check_sampling, generate_ids
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.models.transformer_xl import check_mem_len
from nlpapp.text.vocabulary import Vocabulary, load_vocabulary
from nlpapp.training.fit import set_seed

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Continue a prompt with a language model; the text goes to the console as it is written."""

    prompt: str = ""
    """What to continue; empty: the start of a text."""
    model: str | None = None
    """Model folder of a train-lm run; absent: random weights, to try the command out."""
    vocabulary: str | None = None
    """Folder of its vocabulary or tokenizer; absent: the model's; random weights need one."""
    size: TransformerXLSizeConfig = field(default_factory=TransformerXLSizeConfig)
    """Size of the random model where no model is given."""
    max_new_tokens: int = 100
    """Tokens to write."""
    temperature: float = 1.0
    """Below 1: safer and duller; above 1: wilder; 0: always the likeliest token."""
    top_k: int = 0
    """Draw from this many likeliest tokens only; 0: from all."""
    top_p: float = 0.9
    """Draw from the fewest likeliest tokens with this probability together; 1: from all."""
    mem_len: int | None = None
    """Positions of memory, in tokens; absent: as in training."""
    allow_unknown: bool = False
    """Let the model write <unk>."""
    output_file: str | None = None
    """Also write prompt and text to this file."""
    seed: int = 42
    """Seed of the draws."""

    def __post_init__(self) -> None:
        """Find what is wrong before the model is loaded."""
        if self.model is None and self.vocabulary is None:
            raise ConfigError("give --model, or --vocabulary for a model with random weights.")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens: {self.max_new_tokens} must be at least 1.")
        check_mem_len(self.mem_len or 0)
        check_sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


def run(config: Config) -> dict[str, float]:
    """Print the prompt and what follows it; return the number of tokens of both."""
    vocabulary = load_vocabulary(str(config.vocabulary or config.model))
    set_seed(config.seed, "weights")
    model = open_language_model(
        config.model,
        size=config.size,
        vocab_size=len(vocabulary),
        fingerprint=vocabulary.fingerprint(),
    )
    prompt = encode_prompt(config.prompt, vocabulary)
    unknown = [] if vocabulary.unknown_id is None else [vocabulary.unknown_id]
    ids = generate_ids(
        model,
        prompt,
        max_new_tokens=config.max_new_tokens,
        rng=seeding.generator(config.seed, "generate"),
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        mem_len=config.mem_len,
        forbidden=[] if config.allow_unknown else unknown,
    )
    text = ""
    for part in stream_text(prompt[1:], ids, vocabulary):
        sys.stdout.write(part)
        sys.stdout.flush()
        text += part
    sys.stdout.write("\n")
    if config.output_file is not None:
        path = Path(config.output_file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    return {
        "prompt_tokens": float(len(prompt) - 1),
        "generated_tokens": float(config.max_new_tokens),
    }


def encode_prompt(prompt: str, vocabulary: Vocabulary) -> list[int]:
    """Return the ids of ``prompt``, with <eos> for the start of the text and for each line break.

    Raises:
        DataError: a word is unknown, and the vocabulary has no <unk>.
    """
    ids = [vocabulary.end_id]
    for number, line in enumerate(prompt.split("\n")):
        ids += ([vocabulary.end_id] if number else []) + vocabulary.encode(line)
    unknown = ids.count(vocabulary.unknown_id) if vocabulary.unknown_id is not None else 0
    if unknown:
        logger.warning(
            "%d of the prompt's %d tokens are not in the vocabulary and count as unknown: %s",
            unknown,
            len(ids) - 1,
            vocabulary.decode(ids[1:]),
        )
    return ids


def stream_text(prompt: list[int], ids: Iterable[int], vocabulary: Vocabulary) -> Iterator[str]:
    """Yield the text of ``prompt`` and ``ids`` in parts, as soon as each is final.

    The last word is held back until the next one begins: pieces to come may still join it.
    """
    known, shown = list(prompt), 0
    for index in ids:
        known.append(index)
        text = vocabulary.decode(known)
        final = max(text.rfind(" "), text.rfind("\n"))
        if final > shown:
            yield text[shown:final]
            shown = final
    yield vocabulary.decode(known)[shown:]
