"""The callback that saves the whole training state, and loads it to go on."""

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from nlpapp.errors import CheckpointError
from nlpapp.training import checkpoint
from nlpapp.training.callbacks import Callback
from nlpapp.training.carry import deal_carries
from nlpapp.training.run_folder import RunFolder
from nlpapp.training.state import MetricSums, TrainerState
from nlpapp.training.trainer import Trainer

logger = logging.getLogger("nlpapp")


class Checkpointer(Callback):
    """Saves and loads the whole training state.

    A checkpoint is written each ``every`` steps (0: at each evaluation), at every improvement, and
    at the end; the last ``keep`` and the best are kept. Its files are the same whether processes
    hold whole weights or pieces of them, so that any number of processes may go on.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        every: int,
        keep: int,
        fingerprint: str | None,
        data_fingerprint: str | None = None,
    ) -> None:
        """Write below ``run.checkpoints``.

        Args:
            run: the run's folder.
            every: optimizer steps between two checkpoints; 0: at each evaluation.
            keep: how many of the newest stay on disk, beside the best.
            fingerprint: the tokenizer's; another one is refused when the run goes on.
            data_fingerprint: the training data's, in words that a message can show; likewise.
        """
        self.run, self.every, self.keep = run, every, keep
        self.fingerprint, self.data_fingerprint = fingerprint, data_fingerprint
        self.due = False
        self.last_saved = -1

    def on_start(self, trainer: Trainer) -> None:
        """Remove what a kill left of checkpoints that were being written."""
        if trainer.accelerator.is_main_process:
            checkpoint.remove_partial(self.run.checkpoints)
        trainer.accelerator.wait_for_everyone()

    def on_evaluation(self, trainer: Trainer, metrics: dict[str, float], improved: bool) -> None:
        """Note that the state is to be saved after this evaluation."""
        self.due = self.due or improved or not self.every

    def on_step(self, trainer: Trainer, sums: MetricSums) -> None:
        """Save where it is time to."""
        state = trainer.state
        scheduled = bool(self.every) and state.step % self.every == 0
        if self.due or scheduled or state.step == trainer.last_step:
            self.save(trainer)

    def save(self, trainer: Trainer) -> Path:
        """Save the state after the current step, unless it is; returns the checkpoint's folder."""
        accelerator, step = trainer.accelerator, trainer.state.step
        self.due = False
        folder = self.run.checkpoints / f"step-{step}"
        if step == self.last_saved:
            return folder
        # All processes take part in gathering what is spread over them.
        weights = trainer.strategy.full_weights()
        optimizer = trainer.strategy.full_optimizer()
        try:
            checkpoint.write_rank(
                self.run.checkpoints, step, accelerator.process_index, trainer.carry
            )
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                self._write_main(trainer, weights, optimizer)
        # Of a full disk torch makes a RuntimeError, and safetensors an error of its own.
        except (OSError, RuntimeError, SafetensorError) as error:
            raise checkpoint.explain_write_failure(error, self.run.checkpoints, step) from error
        accelerator.wait_for_everyone()
        self.last_saved = step
        return folder

    def _write_main(
        self, trainer: Trainer, weights: dict[str, torch.Tensor], optimizer: dict[str, Any]
    ) -> None:
        scaler = trainer.accelerator.scaler
        states = {
            "optimizer": optimizer,
            "scaler": scaler.state_dict() if scaler is not None else {},
        }
        state = {
            "trainer": dataclasses.asdict(trainer.state),
            "seconds": self.run.seconds,
            "world_size": trainer.accelerator.num_processes,
            "tokenizer_fingerprint": self.fingerprint,
            "data_fingerprint": self.data_fingerprint,
        }
        checkpoint.write_main(self.run.checkpoints, trainer.state.step, weights, states, state)
        checkpoint.prune(
            self.run.checkpoints,
            step=trainer.state.step,
            keep=self.keep,
            best_step=trainer.state.best_step,
        )

    def newest(self) -> Path | None:
        """Return the newest sound checkpoint of this run."""
        return checkpoint.newest_sound(self.run.checkpoints)

    def load(self, trainer: Trainer, folder: Path) -> None:
        """Restore everything that `save` wrote.

        Raises:
            CheckpointError: the checkpoint belongs to another model, tokenizer or data, or is
                damaged.
        """
        checkpoint.verify(folder)
        state = checkpoint.read_state(folder)
        if state["tokenizer_fingerprint"] != self.fingerprint:
            raise CheckpointError(
                f"the checkpoint {folder} was trained with another tokenizer than the one given"
            )
        known = state.get("data_fingerprint")
        if known is not None and known != self.data_fingerprint:
            raise CheckpointError(
                f"the training data has changed since the checkpoint {folder}: it was {known}, and "
                f"is {self.data_fingerprint}. Put that data back, or start anew in another "
                "output_dir."
            )
        accelerator = trainer.accelerator
        self.load_weights(trainer, folder)
        saved = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
        trainer.strategy.load_full_optimizer(saved["optimizer"])
        if accelerator.scaler is not None and saved["scaler"]:
            accelerator.scaler.load_state_dict(saved["scaler"])
        trainer.state = TrainerState(**state["trainer"])
        rank, world_size = accelerator.process_index, accelerator.num_processes
        carries = checkpoint.read_rank(folder, rank)
        if state["world_size"] != world_size or len(carries) != trainer.accumulation:
            saved = checkpoint.read_carries(folder, state["world_size"])
            shares = {"world_size": world_size, "accumulation": trainer.accumulation}
            carries = deal_carries(saved, rank=rank, **shares)
        trainer.carry = checkpoint.to_device(carries, accelerator.device)
        self.run.rewind(trainer.state.step, state["seconds"])
        logger.info("going on from %s", os.fspath(folder))

    def load_weights(self, trainer: Trainer, folder: Path) -> None:
        """Restore the weights of a checkpoint alone, such as the best one.

        Raises:
            CheckpointError: they do not fit the model.
        """
        try:
            trainer.strategy.load_full_weights(checkpoint.read_weights(folder))
        except CheckpointError as error:
            raise CheckpointError(
                f"{folder}: {error}. Use the options of the run that wrote it."
            ) from error
