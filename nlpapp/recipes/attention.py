"""Show what attention does with a text: head, model and neuron view as a page and as pictures."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nlpapp.errors import ConfigError
from nlpapp.evaluation.attention_page import write_attention_page
from nlpapp.evaluation.attention_views import (
    AttentionPicture,
    filled_segments,
    plot_views,
    readable_tokens,
)
from nlpapp.models.attention_maps import (
    chosen_layers,
    encoder_attention,
    open_encoder,
    transformer_xl_attention,
)
from nlpapp.models.bert_size import BertSizeConfig
from nlpapp.models.classifiers import local_folder
from nlpapp.models.language_models import TransformerXLSizeConfig, open_language_model
from nlpapp.models.pretrained import check_sequence_length, check_tokenizer_fits, read_config
from nlpapp.models.transformer_xl import TransformerXLConfig, check_mem_len
from nlpapp.text.vocabulary import load_vocabulary
from nlpapp.text.wordpiece import fingerprint, load_tokenizer
from nlpapp.training.fit import set_seed
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Show what attention does with a text, as one HTML page and as PNG files."""

    text: str
    """The text to look at."""
    output_dir: str
    """Folder for attention.html and plots/*.png."""
    text_pair: str | None = None
    """The second text of a pair, for encoders."""
    context: str | None = None
    """What was read before the text, for a Transformer-XL: it fills the memory."""
    model: str | None = None
    """Folder or Hub name of an encoder or a classifier made of one, or the model folder of a
    train-lm run; absent: a BERT with random weights, to try the command out."""
    tokenizer: str | None = None
    """Tokenizer or vocabulary folder; absent: the one in the model's folder."""
    size: BertSizeConfig = field(default_factory=BertSizeConfig)
    """Size of the random BERT where no model is given."""
    layers: list[int] | None = None
    """Layers to show, counted from 0, or from the last, -1; absent: all."""
    max_seq_length: int = 128
    """Tokens, special ones included; a longer text is cut, and the page says so."""
    mem_len: int | None = None
    """Positions of a Transformer-XL's memory; absent: as in training."""
    png_layer: int = -1
    """Layer of the PNG files of head view and neuron view; the last of those shown if it is not."""
    png_head: int | None = None
    """Head of the same; absent: all heads in the head view, 0 in the neuron view."""
    png_token: int = 0
    """Token of the neuron view's PNG file, counted from 0."""
    seed: int = 42
    """Seed of random weights; nothing else is drawn."""

    def __post_init__(self) -> None:
        """Find what is wrong before the model is loaded."""
        if self.model is None and self.tokenizer is None:
            raise ConfigError("give --model, or --tokenizer for a random BERT of --size.")
        if not self.text.strip():
            raise ConfigError("text is empty; give a sentence, such as --text 'the cat sat'.")
        if self.max_seq_length < 1:
            raise ConfigError(f"max_seq_length: {self.max_seq_length} must be at least 1.")
        check_mem_len(self.mem_len or 0)


def run(config: Config) -> dict[str, float]:
    """Read the text with the model, and write what its attention did."""
    run = RunFolder.open(config.output_dir, config=config, command="attention", seed=config.seed)
    if run.finished is not None:
        return run.finished
    folder = local_folder(config.model) if config.model is not None else None
    is_language_model = (
        folder is not None and read_config(folder).model_type == TransformerXLConfig.model_type
    )
    read = _read_language_model if is_language_model else _read_encoder
    picture, note, name = read(config, folder)
    layer = _check_choice(config, picture)
    picture = picture.of_layers(chosen_layers(config.layers, picture.weights.shape[0]))
    page = write_attention_page(
        run.path / "attention.html",
        picture,
        title=" | ".join(filter(None, [config.text[:200], (config.text_pair or "")[:200]])),
        subtitle=f"{config.model or 'random weights'}: {name}",
        note=note,
    )
    plot_views(picture, run.plots, layer=layer, head=config.png_head, query=config.png_token)
    logger.info("%s: open it in a browser, it needs no network", page)
    metrics = {
        "layers": float(picture.weights.shape[0]),
        "heads": float(picture.weights.shape[1]),
        "tokens": float(picture.weights.shape[2]),
        "memory_positions": float(picture.memory),
        "page_bytes": float(page.stat().st_size),
        "seconds": run.seconds,
    }
    run.finish(metrics)
    return metrics


def _read_encoder(config: Config, folder: Path | None) -> tuple[AttentionPicture, str, str]:
    if config.context is not None or config.mem_len is not None:
        raise ConfigError("context and mem_len are for a Transformer-XL; an encoder has no memory.")
    tokenizer = load_tokenizer(config.tokenizer or str(folder))
    set_seed(config.seed, "weights")
    model = open_encoder(folder, size=config.size, vocab_size=len(tokenizer))
    check_tokenizer_fits(model, vocab_size=len(tokenizer), fingerprint=fingerprint(tokenizer))
    texts = [config.text] if config.text_pair is None else [config.text, config.text_pair]
    if config.max_seq_length <= tokenizer.num_special_tokens_to_add(len(texts) > 1):
        raise ConfigError(
            f"max_seq_length: {config.max_seq_length} leaves no room beside the special tokens."
        )
    whole = len(tokenizer(*texts, verbose=False)["input_ids"])
    encoded = tokenizer(*texts, truncation=True, max_length=config.max_seq_length)
    ids = encoded["input_ids"]
    check_sequence_length(model, len(ids))
    maps = encoder_attention(model, {name: torch.tensor([row]) for name, row in encoded.items()})
    kind = getattr(model.config, "model_type", "?")
    note = _cut_note(whole, len(ids))
    if maps.queries is None:
        note += f" A {kind} gives only the weights: there is no neuron view."
        logger.warning("a %s gives only the weights: there is no neuron view", kind)
    texts_of = encoded.sequence_ids(0) if encoded.is_fast else [0] * len(ids)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    picture = AttentionPicture(
        key_tokens=readable_tokens(
            tokenizer.convert_ids_to_tokens(ids), tokenizer.convert_tokens_to_string
        ),
        segments=filled_segments(texts_of),
        special=[index in special for index in ids],
        **vars(maps),
    )
    return picture, note.strip(), kind


def _read_language_model(config: Config, folder: Path | None) -> tuple[AttentionPicture, str, str]:
    if config.text_pair is not None:
        raise ConfigError("text_pair is for encoders; give a Transformer-XL --context instead.")
    vocabulary = load_vocabulary(config.tokenizer or str(folder))
    model = open_language_model(
        folder,
        size=TransformerXLSizeConfig(),
        vocab_size=len(vocabulary),
        fingerprint=vocabulary.fingerprint(),
    )
    start = [vocabulary.end_id]
    context = [] if config.context is None else start + vocabulary.encode(config.context)
    ids = ([] if context else start) + vocabulary.encode(config.text)
    cut = ids[: config.max_seq_length]
    maps = transformer_xl_attention(model, cut, context=context, mem_len=config.mem_len)
    memory = maps.weights.shape[3] - len(cut)
    read = [*context[len(context) - memory :], *cut]
    picture = AttentionPicture(
        key_tokens=[
            "<eos>" if index == vocabulary.end_id else vocabulary.decode([index]) for index in read
        ],
        memory=memory,
        special=[index == vocabulary.end_id for index in read],
        **vars(maps),
    )
    return picture, _cut_note(len(ids), len(cut)), "Transformer-XL"


def _cut_note(tokens: int, kept: int) -> str:
    if tokens == kept:
        return ""
    note = f"The text has {tokens} tokens; only {kept} are shown (max_seq_length)."
    logger.warning("%s", note)
    return note


def _check_choice(config: Config, picture: AttentionPicture) -> int:
    """Refuse what the PNG files cannot show; return their layer's index among those shown."""
    layers, heads, queries, _ = picture.weights.shape
    shown = chosen_layers(config.layers, layers)
    (layer,) = chosen_layers([config.png_layer], layers)
    head = config.png_head or 0
    for name, value, count in (("png_head", head, heads), ("png_token", config.png_token, queries)):
        if not 0 <= value < count:
            raise ConfigError(f"{name}: {value} is not possible; there are 0 to {count - 1}.")
    return shown.index(layer) if layer in shown else len(shown) - 1
