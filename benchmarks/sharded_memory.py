"""The memory of a pretraining step on one of many GPUs: arithmetic, nothing is run.

    python benchmarks/sharded_memory.py [--rows 32] [--sequence_length 128]
        [--gradient_checkpointing]

For P parameters on N GPUs, with AdamW and bf16 (weights, gradients and optimizer stay float32):

    DDP               (4 weights + 2 their bf16 copies + 4 gradients + 4 their buckets + 8 AdamW) P
    FSDP2             (4 + 4 + 8) P / N  + 2 (R + 2 L) gathered + 6 max(R, L) gradients on their way
    FSDP2, kept       (4 + 4 + 8) P / N  + 2 P         gathered + 6 max(R, L)

where L are the parameters of one layer, of which two are gathered at a time, and R those outside
the layers, which are gathered for the whole step; a gradient on its way to its piece is there in
bf16 and in float32. "Kept" is --fsdp_reshard_after_forward false: ZeRO-2 instead of ZeRO-3.
Activations are those of `nlpapp.models.bert_cost.bert_memory`, and come on top everywhere.
"""

import argparse

from transformers import BertConfig

from nlpapp.models.bert_cost import bert_memory, bert_parameters

SIZES = {"base": (12, 768), "large": (24, 1024), "1.3 B": (24, 2048)}
"""Layers and width; heads are 64 wide."""
GPUS = (8, 64)


def state_bytes(config: BertConfig, gpus: int) -> dict[str, float]:
    """Return the bytes on one GPU by strategy, activations left out."""
    parameters = bert_parameters(config)
    shallow = BertConfig(**config.to_dict() | {"num_hidden_layers": 0})
    rest = bert_parameters(shallow)
    layer = (parameters - rest) / config.num_hidden_layers
    pieces, on_their_way = 16 * parameters / gpus, 6 * max(rest, layer)
    return {
        "DDP": 22 * parameters,
        "FSDP2": pieces + 2 * (rest + 2 * layer) + on_their_way,
        "FSDP2, kept": pieces + 2 * parameters + on_their_way,
    }


def main() -> None:
    """Print a table in GB (10^9 bytes)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=32, help="sequences a GPU in a micro-batch")
    parser.add_argument("--sequence_length", type=int, default=128)
    parser.add_argument("--gradient_checkpointing", action="store_true")
    options = parser.parse_args()
    columns = [f"{name}, {gpus}" for gpus in GPUS for name in ("FSDP2", "FSDP2, kept")]
    print("| model | parameters | activations | DDP |", " | ".join(columns), "|")
    print("|" + " --- |" * (4 + len(columns)))
    for name, (layers, width) in SIZES.items():
        config = BertConfig(
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=width // 64,
            intermediate_size=4 * width,
        )
        activations = bert_memory(
            config,
            rows=options.rows,
            sequence_length=options.sequence_length,
            predictions=0.15 * options.sequence_length,
            optimizer="adamw",
            precision="bf16",
            gradient_checkpointing=options.gradient_checkpointing,
        ).activations
        state = {gpus: state_bytes(config, gpus) for gpus in GPUS}
        cells = [activations, state[8]["DDP"]]
        cells += [state[gpus][kind] for gpus in GPUS for kind in ("FSDP2", "FSDP2, kept")]
        figures = " | ".join(f"{cell / 1e9:.2f}" for cell in cells)
        print(f"| {name} | {bert_parameters(config) / 1e6:,.0f} M | {figures} |")


if __name__ == "__main__":
    main()
