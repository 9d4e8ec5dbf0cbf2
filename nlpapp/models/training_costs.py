"""What training a BERT costs, before it starts: parameters, FLOPs and memory."""

import logging

from transformers import BertForPreTraining

from nlpapp.models.bert_cost import bert_memory, bert_training_flops

logger = logging.getLogger("nlpapp")


def training_costs(
    bert: BertForPreTraining,
    *,
    rows: int,
    longest: int,
    sequence_length: float,
    prediction_rate: float,
    optimizer: str,
    precision: str,
    gradient_checkpointing: bool,
    on_cpu: bool,
    sharded: bool,
) -> dict[str, float]:
    """Say in the log what training will cost, and return it as flat figures.

    Args:
        bert: the model.
        rows: sequences of a micro-batch.
        longest: tokens of the longest sequence, for which there has to be memory.
        sequence_length: tokens of the sequence that the mean token is in, for the FLOPs.
        prediction_rate: share of the tokens that are predicted.
        optimizer: adamw or lamb.
        precision: float32, bf16 or fp16.
        gradient_checkpointing: whether activations are computed twice instead of kept.
        on_cpu: whether the device is a CPU.
        sharded: whether processes will hold pieces of the model; the figures are those of a whole.
    """
    flops = bert_training_flops(
        bert.config, sequence_length=sequence_length, predictions=prediction_rate * sequence_length
    )
    memory = bert_memory(
        bert.config,
        rows=rows,
        sequence_length=longest,
        predictions=round(prediction_rate * longest),
        optimizer=optimizer,
        precision=precision,
        gradient_checkpointing=gradient_checkpointing,
        on_cpu=on_cpu,
    )
    parameters = bert.num_parameters()
    logger.info("model: %.2f M parameters, %.4g MFLOPs a token", parameters / 1e6, flops / 1e6)
    logger.info(
        "memory of a process%s: about %.2f GB (weights %.2f, gradients %.2f, optimizer %.2f, "
        "activations of %d sequences of %d tokens %.2f)",
        *(" before sharding" if sharded else "", memory.total / 1e9),
        *(memory.weights / 1e9, memory.gradients / 1e9),
        *(memory.optimizer / 1e9, rows, longest, memory.activations / 1e9),
    )
    return {
        "parameters": float(parameters),
        "flops_per_token": flops,
        "memory_estimate_bytes": float(memory.total),
    }
