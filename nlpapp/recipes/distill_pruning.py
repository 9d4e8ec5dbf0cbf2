"""The end of `nlpapp distill` for a student that is pruned."""

import dataclasses
from collections.abc import Callable
from typing import Any

from nlpapp.models.pruning import PruningConfig, hold_zeros, prune_weights
from nlpapp.training.fit import TrainingConfig
from nlpapp.training.run_folder import RunFolder


def prune_student(
    run: RunFolder,
    pruning: PruningConfig,
    training: TrainingConfig,
    model: Any,
    train: Callable[[RunFolder, TrainingConfig], dict[str, float]],
) -> None:
    """Prune ``model``, and train what is left of it where that is asked for.

    Args:
        run: of the student; records and checkpoints of the steps after it go to pruned/ in it.
        pruning: how much.
        training: options of these steps, but for their number.
        model: the trained student.
        train: trains ``model`` in a folder.
    """
    prune_weights(model, pruning.sparsity, pruning.scope)
    if pruning.max_steps:
        hold_zeros(model)
        after = RunFolder(run.path / "pruned", is_main=run.is_main)
        after.path.mkdir(exist_ok=True)
        # A checkpoint that the options name is of the steps before.
        resume = "never" if training.resume == "never" else "auto"
        train(after, dataclasses.replace(training, max_steps=pruning.max_steps, resume=resume))
