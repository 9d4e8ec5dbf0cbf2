"""Estimates against the real model: counted parameters, counted FLOPs, tracked memory."""

import weakref

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForPreTraining

from nlpapp.errors import ConfigError
from nlpapp.models.bert import BertPretrainingModel
from nlpapp.models.bert_cost import (
    MemoryEstimate,
    bert_memory,
    bert_parameters,
    bert_training_flops,
)

ROWS, TOKENS, MASKED = 8, 64, 10


def make_config(**changes) -> BertConfig:
    sizes = {
        "vocab_size": 2000,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 200,
        "max_position_embeddings": 80,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return BertConfig(**(sizes | changes))


def make_batch(config: BertConfig) -> dict[str, torch.Tensor]:
    ids = torch.randint(config.vocab_size, (ROWS, TOKENS), generator=torch.Generator())
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
        "masked_positions": torch.cat(
            [row * TOKENS + 1 + torch.arange(MASKED) * 6 for row in range(ROWS)]
        ),
        "masked_labels": ids.flatten()[: ROWS * MASKED],
    }


class LiveMemory(TorchDispatchMode):
    """Bytes of the tensors that operators make, while they live, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        inputs = {x.untyped_storage() for x in tree_leaves((args, kwargs)) if is_tensor(x)}
        outputs = function(*args, **(kwargs or {}))
        for storage in {x.untyped_storage() for x in tree_leaves(outputs) if is_tensor(x)}:
            if storage not in inputs and storage not in self.known:
                self.known.add(storage)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return outputs

    def _free(self, size: int) -> None:
        self.live -= size


def is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


@pytest.mark.parametrize("layers", [1, 3])
def test_parameters_are_those_of_the_model(layers):
    config = make_config(num_hidden_layers=layers)
    assert bert_parameters(config) == BertForPreTraining(config).num_parameters()


def test_flops_are_those_that_torch_counts(monkeypatch):
    """Counted with plain attention, as other kernels compute scores twice, and with torch's own
    products, as those of oneDNN are not counted."""
    monkeypatch.setattr("nlpapp.models.fast_linear.FEWEST", float("inf"))
    config = make_config()
    model = BertPretrainingModel(BertForPreTraining(config))
    model.bert.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss, _, pairs = model(**make_batch(config))
        (loss + pairs.sum()).backward()
    estimate = bert_training_flops(config, sequence_length=TOKENS, predictions=MASKED)
    assert counter.get_total_flops() == estimate * ROWS * TOKENS


@pytest.mark.parametrize("vocab_size", [50, 20000])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_memory_is_that_of_a_real_step(vocab_size, checkpointing, attention_dropout):
    dropout = {"attention_probs_dropout_prob": attention_dropout}
    config = make_config(vocab_size=vocab_size, **dropout)
    with LiveMemory() as memory:
        bert = BertForPreTraining(config)
        if checkpointing:
            bert.gradient_checkpointing_enable({"use_reentrant": False})
        model = BertPretrainingModel(bert.train())
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for micro_batch in range(4):
            loss, _, pairs = model(**make_batch(config))
            (loss + pairs.sum()).backward()
            if micro_batch % 2:
                optimizer.step()
                optimizer.zero_grad()
    estimate = estimate_of(config, gradient_checkpointing=checkpointing, on_cpu=True)
    assert estimate.total == pytest.approx(memory.peak, rel=0.15)


def estimate_of(config: BertConfig, **options) -> MemoryEstimate:
    defaults = {"optimizer": "adamw", "precision": "float32", "gradient_checkpointing": False}
    return bert_memory(
        config, rows=ROWS, sequence_length=TOKENS, predictions=MASKED, **(defaults | options)
    )


def test_parts_of_the_memory():
    config = make_config()
    count = bert_parameters(config)
    plain, half = estimate_of(config), estimate_of(config, precision="bf16")
    assert (plain.weights, plain.gradients, plain.optimizer) == (4 * count, 4 * count, 8 * count)
    parts = (plain.weights, plain.gradients, plain.optimizer, plain.activations)
    assert plain.total == sum(parts)
    assert half.weights == 6 * count and half.activations < plain.activations
    assert estimate_of(config, optimizer="lamb") == plain


@pytest.mark.parametrize("option", [{"optimizer": "sgd"}, {"precision": "int8"}])
def test_unknown_names_are_refused(option):
    ((key, value),) = option.items()
    with pytest.raises(ConfigError, match=f"{key} is '{value}'; expected"):
        estimate_of(make_config(), **option)
