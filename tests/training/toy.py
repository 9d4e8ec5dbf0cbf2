"""A job that runs in milliseconds: a number from a few tokens, with dropout and a carry."""

import sys
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from nlpapp import seeding
from nlpapp.data.sampling import ExampleSteps
from nlpapp.objectives.step import StepOutput
from nlpapp.training.fit import TrainingConfig, fit, set_seed
from nlpapp.training.run_folder import RunFolder

NUM_EXAMPLES, VOCABULARY, WIDTH = 70, 20, 8


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    output_dir: str
    seed: int = 1
    dropout: float = 0.0
    carry: bool = False
    batch_size: int = 8
    explode_at: int = -1
    training: TrainingConfig = field(default_factory=TrainingConfig)


class ToyModel(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(self.embedding(input_ids)) * attention_mask[..., None]
        return self.head(hidden.sum(1)).squeeze(-1)


class ToyObjective:
    """Squared error weighted by the number of tokens, so that counts differ between batches."""

    def __init__(self, carry: bool = False, explode_at: int = -1) -> None:
        self.carry, self.explode_at, self.calls = carry, explode_at, 0

    def counts(self, batch):
        return {"targets": float(batch["attention_mask"].sum())}

    def __call__(self, model, batch, counts, carry=None):
        weights = batch["attention_mask"].sum(1)
        predictions = model(batch["input_ids"], batch["attention_mask"])
        memory = carry["memory"] if carry is not None else torch.zeros(())
        if self.carry:
            predictions = predictions + 0.1 * memory
        losses = (predictions - batch["targets"]) ** 2 * weights
        self.calls += 1
        if self.calls == self.explode_at:
            losses = losses * float("nan")
        new_carry = {"memory": predictions.detach().mean()} if self.carry else None
        metrics = {"loss": (losses.detach().sum(), weights.sum())}
        return StepOutput(loss=losses.sum() / counts["targets"], metrics=metrics, carry=new_carry)

    def summary(self, means):
        return means


def make_steps(batch_size: int, *, shuffle: bool = True, seed: int = 1) -> ExampleSteps:
    rng = seeding.generator(7, "toy data")
    lengths = rng.integers(2, 6, NUM_EXAMPLES)
    ids = rng.integers(0, VOCABULARY, (NUM_EXAMPLES, 6))
    targets = rng.normal(size=NUM_EXAMPLES).astype(np.float32)

    def collate(indices, epoch):
        width = int(lengths[indices].max())
        mask = np.arange(width) < lengths[indices][:, None]
        return {
            "input_ids": torch.from_numpy(ids[indices, :width]),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            "targets": torch.from_numpy(targets[indices]),
        }

    return ExampleSteps(NUM_EXAMPLES, collate, batch_size=batch_size, seed=seed, shuffle=shuffle)


def train(config: ToyConfig, evaluate=None, **options) -> tuple[ToyModel, dict[str, float]]:
    run = RunFolder.open(config.output_dir, config=config, command="toy", seed=config.seed)
    set_seed(config.seed, "weights")
    model = ToyModel(config.dropout)
    metrics = fit(
        run=run,
        model=model,
        objective=ToyObjective(config.carry, config.explode_at),
        steps=make_steps(config.batch_size, seed=config.seed),
        training=config.training,
        seed=config.seed,
        evaluate=evaluate,
        fingerprint="toy",
        **options,
    )
    return model, metrics


def main(output_dir: str, weights: str, *options: str) -> None:
    """Run under torchrun: train, and let the main process save its weights."""
    from nlpapp.training.evaluate import predict_rows

    given = dict(option.split("=") for option in options)
    numbers = {name: int(value) if value.isdigit() else value for name, value in given.items()}
    training = TrainingConfig(max_steps=12, tensorboard=False, **numbers)
    model, _ = train(ToyConfig(output_dir=output_dir, training=training))
    rows = predict_rows(
        model,
        lambda m, b: m(b["input_ids"], b["attention_mask"]),
        make_steps(9, shuffle=False),
    )
    from accelerate import PartialState

    if PartialState().is_main_process:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        torch.save({"state": state, "rows": torch.from_numpy(rows)}, weights)
    print("processes", PartialState().num_processes, PartialState().distributed_type)


if __name__ == "__main__":
    main(*sys.argv[1:])
