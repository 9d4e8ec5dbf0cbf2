"""The data sets of a pretraining run: opened for its tokenizer, compared, and summed up."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from nlpapp.data.manifest import read_manifest
from nlpapp.data.pretraining_data import PretrainingData
from nlpapp.data.sampling import ExampleSteps, padding_share
from nlpapp.errors import DataError
from nlpapp.text.wordpiece import check_fingerprint, fingerprint

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class PretrainingSummary:
    """What a data set costs to train on."""

    tokens_per_epoch: int
    """Real (unpadded) tokens."""
    padding_share: float
    """Share of padding among the positions of the first epoch's steps, from 0 to 1."""
    rows: int
    """Sequences of the largest micro-batch, padding included, in the first epoch."""
    longest: int
    """Tokens of the longest of them."""
    sequence_length: float
    """Length of the sequence that the mean token is in: what attention costs grows with it."""
    prediction_rate: float
    """Share of the tokens that are predicted."""

    def reading(self) -> dict[str, Any]:
        """Return what the cost of training on it depends on."""
        names = ("rows", "longest", "sequence_length", "prediction_rate")
        return {name: getattr(self, name) for name in names}

    def figures(self) -> dict[str, float]:
        """Return what belongs into the metrics of a run."""
        return {
            "tokens_per_epoch": float(self.tokens_per_epoch),
            "padding_share": self.padding_share,
        }


def max_seq_length(folder: str, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the longest instance that the data in ``folder`` may have, in tokens.

    Raises:
        DataError: there is no data, it is empty, or it was made with another tokenizer.
    """
    manifest = read_manifest(folder)
    check_fingerprint(
        found=fingerprint(tokenizer),
        expected=manifest["tokenizer_fingerprint"],
        found_in="the tokenizer option",
        expected_by=f"the data in {folder}",
    )
    if not manifest["counts"].get("instances"):
        raise DataError(f"the data in {folder} holds no instances; make it from more text")
    return int(manifest["options"]["max_seq_length"])


def open_sets(
    training: str, evaluation: str | None, tokenizer: PreTrainedTokenizerBase
) -> tuple[PretrainingData, PretrainingData | None]:
    """Open the data to train on and, where there is a folder, the data to evaluate on.

    Evaluation data that is training data, or of the same files, is told in a warning: its figures
    would say little.

    Raises:
        DataError: a folder cannot be used, see `max_seq_length` and `PretrainingData.open`.
    """
    opened = []
    for folder in (training, evaluation):
        if folder is not None:
            max_seq_length(folder, tokenizer)
            opened.append(PretrainingData.open(folder))
    if evaluation is None:
        return opened[0], None
    shards, held_out = ({record["sha256"] for record in data.manifest["shards"]} for data in opened)
    if shards & held_out:
        logger.warning(
            "%d of the %d shards in %s are shards of the training data: the evaluation shows what "
            "was learned by heart too. Make evaluation data of other text.",
            *(len(shards & held_out), len(held_out), evaluation),
        )
    elif both := set.intersection(*(_texts(data) for data in opened)):
        logger.warning(
            "%d of the files that %s was made from, such as %s, are training data as well: the "
            "evaluation shows what was learned by heart too. Make evaluation data of other text.",
            *(len(both), evaluation, min(both)[0]),
        )
    return opened[0], opened[1]


def _texts(data: PretrainingData) -> set[tuple[str, int]]:
    """Return name and size of the files that ``data`` was made from."""
    return {(source["file"], source["bytes"]) for source in data.manifest["sources"]}


def summarize(data: PretrainingData, steps: ExampleSteps, *, parts: int) -> PretrainingSummary:
    """Sum up ``data`` as it is read in ``steps``, each cut into ``parts``; say it in the log."""
    lengths = data.lengths
    tokens = int(lengths.sum())
    # A token attends to its whole sequence, so each sequence counts as often as it has tokens.
    sequence_length = float((lengths.astype(float) ** 2).sum()) / tokens
    rate = data.manifest["statistics"]["mask_rate"] or data.manifest["options"]["masked_lm_prob"]
    plan = steps.plan(0)
    share = padding_share(lengths, plan)
    largest = max(plan, key=lambda batch: len(batch) * int(lengths[batch].max()))
    logger.info("data: %d tokens an epoch, %.1f %% padding beside them", tokens, 100 * share)
    return PretrainingSummary(
        tokens_per_epoch=tokens,
        padding_share=share,
        rows=-(-len(largest) // parts),
        longest=int(lengths[largest].max()),
        sequence_length=sequence_length,
        prediction_rate=rate,
    )


def describe_sets(folders: Sequence[str]) -> dict[str, Any]:
    """Return what a model card says of the training data: fingerprint, options and counts."""
    described: dict[str, Any] = {}
    for folder in folders:
        data = PretrainingData.open(folder, verify=False)
        name = f" of {folder}" if len(folders) > 1 else ""
        described[f"training data{name}"] = {
            "fingerprint": data.fingerprint,
            **data.manifest["options"],
        }
        described[f"counts{name}"] = data.manifest["counts"]
    return described
