"""Record what the authors' code and transformers 4.33 compute, for tests/models; see README.md."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformer_xl_cases import LENGTH, MEMORY, ORIGINAL, TRANSFORMERS, VOCABULARY, texts

Record = dict[str, np.ndarray]


def randomize(model: Any) -> None:
    """Fill the weights with values at which every term of the model counts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.copy_(values + ("layer_norm.weight" in name))


def named(kind: str, tensors: Any) -> Record:
    """Return arrays under names that tell their kind; a shared tensor has each of its names."""
    return {f"{kind}/{name}": tensor.detach().numpy() for name, tensor in tensors}


def original(_: str, options: dict[str, Any]) -> Record:
    """Return weights, losses, memories and gradients of the authors' model over all segments."""
    from mem_transformer import MemTransformerLM

    sizes = {"n_layer": 2, "n_head": 2, "d_model": 8, "d_head": 3, "d_inner": 6, "dropout": 0.0}
    lengths = {"dropatt": 0.0, "tgt_len": LENGTH, "ext_len": 0, "mem_len": MEMORY}
    model = MemTransformerLM(VOCABULARY, **sizes | lengths | options)
    model.crit.keep_order = True  # or losses come back sorted by cluster
    randomize(model)
    record = named("weights", model.state_dict().items())
    memory: tuple[torch.Tensor, ...] = ()
    for segment, (ids, labels) in enumerate(zip(*texts(), strict=True)):
        inputs = (torch.from_numpy(part.T.copy()) for part in (ids, labels))
        loss, *memory = model(*inputs, *memory)
        loss.mean().backward()
        record |= named(f"losses {segment}", [("all", loss)])
        record |= named(f"memory {segment}", [(str(i), old) for i, old in enumerate(memory)])
    parameters = model.named_parameters(remove_duplicate=False)
    return record | named("gradients", [(name, part.grad) for name, part in parameters])


def transformers(name: str, options: dict[str, Any]) -> Record:
    """Save transformers' model as a folder; return its log-probabilities over all segments."""
    from transformers import TransfoXLConfig, TransfoXLLMHeadModel

    sizes = {"n_layer": 2, "n_head": 2, "d_model": 8, "d_embed": 8, "d_head": 4, "d_inner": 10}
    config = TransfoXLConfig(vocab_size=VOCABULARY, mem_len=MEMORY, **sizes | options)
    model = TransfoXLLMHeadModel(config).eval()
    randomize(model)
    folder = Path(__file__).with_name(f"transfo-xl-{name}")
    model.save_pretrained(folder, safe_serialization=False)
    words = "".join(f"word{index}\n" for index in range(2, VOCABULARY))
    (folder / "vocab.txt").write_text("<eos>\n<unk>\n" + words, encoding="utf-8")
    record: Record = {}
    memory = None
    for segment, ids in enumerate(texts()[0]):
        output = model(torch.from_numpy(ids), mems=memory)
        memory = output.mems
        record |= named(f"log-probabilities {segment}", [("all", output.prediction_scores)])
    return record


def main() -> None:
    """Write original_transformer_xl.npz or transformers_transformer_xl.npz beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--original", help="the folder pytorch/ of the authors' code; else 4.33")
    folder = parser.parse_args().original
    if folder:
        sys.path[:0] = [folder, f"{folder}/utils"]
    cases, compute = (ORIGINAL, original) if folder else (TRANSFORMERS, transformers)
    arrays = {
        f"{case}/{name}": values
        for case, options in cases.items()
        for name, values in compute(case, options).items()
    }
    kind = "original" if folder else "transformers"
    np.savez_compressed(Path(__file__).with_name(f"{kind}_transformer_xl.npz"), **arrays)


if __name__ == "__main__":
    main()
