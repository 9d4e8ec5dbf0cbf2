"""Continue prompts with a language model."""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nlpapp import seeding
from nlpapp.data.table_files import read_lines
from nlpapp.errors import ConfigError
from nlpapp.models.generation import check_sampling, equal_lengths, generate_batch
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.models.transformer_xl import TransformerXLLMHeadModel, check_mem_len
from nlpapp.text.text_stream import stream_text
from nlpapp.text.vocabulary import Vocabulary, load_vocabulary
from nlpapp.training.fit import set_seed
from nlpapp.training.processes import process_state

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Continue prompts with a language model; one text goes to the console as it is written."""

    prompt: str = ""
    """What to continue; empty: the start of a text."""
    prompt_file: str | None = None
    """Prompts instead, one a line."""
    num_texts: int = 1
    """Texts to write for each prompt."""
    batch_size: int = 16
    """Texts that are written side by side; their prompts have the same number of tokens."""
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
    repetition_penalty: float = 1.0
    """Log-probabilities of tokens that are there already are multiplied by it; 1: not."""
    mem_len: int | None = None
    """Positions of memory, in tokens; absent: as in training. Without a memory (0) each token is
    written from the 512 tokens before it."""
    allow_unknown: bool = False
    """Let the model write <unk>."""
    output_file: str | None = None
    """Also write prompt and text to this file; several texts as JSON lines {"prompt", "text"}."""
    seed: int = 42
    """Seed of the draws; each text has draws of its own, whatever is written beside it."""

    def __post_init__(self) -> None:
        """Find what is wrong before the model is loaded."""
        if self.model is None and self.vocabulary is None:
            raise ConfigError("give --model, or --vocabulary for a model with random weights.")
        if self.prompt and self.prompt_file is not None:
            raise ConfigError("prompt and prompt_file are both given: leave one out.")
        for name in ("max_new_tokens", "num_texts", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)} must be at least 1.")
        check_mem_len(self.mem_len or 0)
        check_sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
        )


def run(config: Config) -> dict[str, float]:
    """Print each prompt and what follows it; return the number of tokens of both."""
    if config.output_file is not None:
        check_writable(config.output_file)
    given = [config.prompt]
    if config.prompt_file is not None:
        given = [line for _, line in read_lines(Path(config.prompt_file))]
    vocabulary = load_vocabulary(str(config.vocabulary or config.model))
    set_seed(config.seed, "weights")
    model = open_language_model(
        config.model,
        size=config.size,
        vocab_size=len(vocabulary),
        fingerprint=vocabulary.fingerprint(),
    ).to(process_state().device)
    prompts = [encode_prompt(text, vocabulary) for text in given for _ in range(config.num_texts)]
    texts = [""] * len(prompts)
    for places in equal_lengths(prompts, config.batch_size):
        rows = _write(config, model, vocabulary, prompts, places)
        if len(prompts) == 1:
            texts[0] = _show(stream_text(prompts[0][1:], (row[0] for row in rows), vocabulary))
            continue
        written = list(zip(*rows, strict=True))
        for place, ids in zip(places, written, strict=True):
            texts[place] = vocabulary.decode([*prompts[place][1:], *ids])
    if len(prompts) > 1:
        for text in texts:
            _show([text, "\n"])
    if config.output_file is not None:
        content = texts[0] + "\n"
        if len(texts) > 1:
            sources = (text for text in given for _ in range(config.num_texts))
            pairs = zip(sources, texts, strict=True)
            records = ({"prompt": prompt, "text": text} for prompt, text in pairs)
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in records)
        Path(config.output_file).write_text(content, encoding="utf-8")
    return {
        "prompt_tokens": float(sum(len(prompt) - 1 for prompt in prompts)),
        "generated_tokens": float(config.max_new_tokens * len(prompts)),
    }


def check_writable(output_file: str) -> None:
    """Make the folder of ``output_file``, and the file if there is none; what it holds is kept.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        Path(output_file).parent.mkdir(parents=True, exist_ok=True)
        open(output_file, "a").close()
    except OSError as error:
        raise ConfigError(
            f"output_file: {output_file} cannot be written ({error.strerror}); expected a file in "
            "a folder that you may write to. Give another, or leave it out."
        ) from None


def _write(
    config: Config,
    model: TransformerXLLMHeadModel,
    vocabulary: Vocabulary,
    prompts: Sequence[Sequence[int]],
    places: Sequence[int],
) -> Iterator[list[int]]:
    unknown = [] if vocabulary.unknown_id is None else [vocabulary.unknown_id]
    return generate_batch(
        model,
        [prompts[place] for place in places],
        max_new_tokens=config.max_new_tokens,
        rngs=[seeding.generator(config.seed, "generate", place) for place in places],
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        repetition_penalty=config.repetition_penalty,
        mem_len=config.mem_len,
        forbidden=[] if config.allow_unknown else unknown,
    )


def _show(parts: Iterable[str]) -> str:
    """Print ``parts`` as they come; return the text of them all."""
    text = ""
    for part in parts:
        sys.stdout.write(part)
        sys.stdout.flush()
        text += part
    sys.stdout.write("\n")
    return text


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
