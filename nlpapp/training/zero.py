"""DeepSpeed's ZeRO, which cuts optimizer (1), gradients too (2) and weights too (3) in pieces.

Rajbhandari et al. 2020, arXiv 1910.02054. The same step and the same files as everywhere: the
update comes after the loss was looked at, and a checkpoint holds whole tensors under the names of
the plain model.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.utils import convert_outputs_to_fp32, is_deepspeed_available
from torch import nn

from nlpapp.errors import ConfigError
from nlpapp.training.lamb import Lamb
from nlpapp.training.sharding import Strategy

DECIDED = {
    "optimizer": "--training.optimizer",
    "scheduler": "--training.schedule",
    "bf16": "--training.precision",
    "fp16": "--training.precision",
    "torch_autocast": "--training.precision",
}
"""Sections of a DeepSpeed file that the options of a run stand for."""


def zero_plugin(max_grad_norm: float) -> DeepSpeedPlugin | None:
    """Return what Accelerate needs for ZeRO, or None where the launcher asks for no DeepSpeed.

    Args:
        max_grad_norm: the gradients' largest global norm; the engine clips by itself. 0: no limit.

    Raises:
        ConfigError: DeepSpeed is not installed, or is asked for something that is not done here.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
        return None
    if not is_deepspeed_available():
        raise ConfigError(
            "the launcher asks for DeepSpeed, which is not installed: pip install nlpapp[deepspeed]"
        )
    # Models are made before they are cut: every process draws the same weights from the seed.
    plugin = DeepSpeedPlugin(zero3_init_flag=False)
    config = plugin.deepspeed_config
    if plugin.zero_stage not in (1, 2, 3):
        raise ConfigError(
            f"deepspeed_config: zero_stage is {plugin.zero_stage}; expected 1, 2 or 3. For none of "
            "them launch with configs/accelerate/multi_gpu.yaml"
        )
    for place in ("optimizer", "param"):
        device = config["zero_optimization"].get(f"offload_{place}", {}).get("device")
        if device not in (None, "none"):
            raise ConfigError(
                f"deepspeed_config: offload_{place}_device is {device}; only none is supported. "
                "Take more GPUs, smaller micro-batches (training.gradient_accumulation_steps) or "
                "training.gradient_checkpointing"
            )
    for section in sorted(DECIDED.keys() & config.keys()):
        raise ConfigError(
            f"deepspeed_config: the DeepSpeed file has a section '{section}'; leave it out, "
            f"{DECIDED[section]} decides"
        )
    # The trainer says which micro-batch is the last, and its losses are shares of the step's.
    config.update(
        train_batch_size="auto",
        train_micro_batch_size_per_gpu=1,
        gradient_accumulation_steps=1,
        gradient_clipping=max_grad_norm,
    )
    return plugin


class ZeroStrategy(Strategy):
    """A `Strategy` on DeepSpeed's engine.

    Weights, gradients and all exchanges between processes are float32, so that a weight and its
    master copy are the same number; in bf16 the forward pass casts, as it does under DDP.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        precision: str,
        *,
        compiled: bool = False,
    ) -> None:
        """Cut ``model`` and ``optimizer`` in pieces, in place.

        Args:
            accelerator: made with `zero_plugin` and without mixed precision of its own.
            model: on its device.
            optimizer: over its parameters.
            precision: float32 or bf16, of the forward pass.
            compiled: whether ``training.compile`` is on.

        Raises:
            ConfigError: an option that does not go together with ZeRO.
        """
        self._check(optimizer, precision, compiled)
        from transformers.integrations import unset_hf_deepspeed_config

        # Accelerate lets transformers cut each model that is loaded from now on; none of them asks.
        unset_hf_deepspeed_config()
        if precision == "bf16":
            # A cache of casted weights would hold the whole model, which ZeRO-3 wants nowhere.
            cast = torch.autocast(accelerator.device.type, torch.bfloat16, cache_enabled=False)
            model.forward = convert_outputs_to_fp32(cast(model.forward))
        # DeepSpeed puts flat pieces in the place of these.
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        super().__init__(accelerator, model, optimizer)
        self._zero = self.optimizer.optimizer

    @staticmethod
    def _check(optimizer: Any, precision: str, compiled: bool) -> None:
        if isinstance(optimizer, Lamb):
            raise ConfigError(
                "optimizer.name lamb needs the norm of each matrix, which ZeRO's flat pieces do "
                "not show; take adamw, or FSDP2 (configs/accelerate/fsdp.yaml)"
            )
        if precision == "fp16":
            raise ConfigError(
                "training.precision is fp16, which is not supported with DeepSpeed; take bf16 or "
                "float32, or FSDP2 (configs/accelerate/fsdp.yaml)"
            )
        if compiled:
            raise ConfigError(
                "training.compile is not supported with DeepSpeed; leave it out, or take FSDP2 "
                "(configs/accelerate/fsdp.yaml)"
            )

    @contextmanager
    def micro_batch(self, *, last: bool) -> Iterator[None]:
        """Tell the engine whether this is the step's last micro-batch."""
        self.model.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of ``loss`` to those of the step; processes are averaged."""
        # Accelerate's own would update at once, before the loss is found to be finite.
        self.model.backward(loss)

    def clip(self, max_grad_norm: float) -> None:
        """Leave it to the engine, which clips in its update; see `zero_plugin`."""

    def update(self) -> None:
        """Clip, update, clear the gradients."""
        self.model.step()

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """Give out the plain module for an evaluation; see `Strategy`."""
        with super().evaluating() as module:
            yield module
        # Weights that were gathered in inference mode would stay, and cannot be trained.
        self.model.empty_partition_cache()

    def load_full_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Copy whole ``weights``, the same on every process, into the model; see `Strategy`."""
        super().load_full_weights(weights)
        self._zero.refresh_fp32_params()  # The master copies.

    def full_optimizer(self) -> dict[str, Any]:
        """Return what the plain optimizer's ``state_dict()`` would be; see `Strategy`."""
        from deepspeed.utils import safe_get_full_optimizer_state

        entries: dict[int, dict[str, Any]] = {}
        held = {id(p): flat for flat, parameters in self._pieces() for p in parameters}
        numbers = self._numbers()
        for group in self._groups:
            for parameter in group:
                entry = {}
                for name, value in self._zero.optimizer.state[held[id(parameter)]].items():
                    whole = value  # The step count of AdamW is a scalar beside flat tensors.
                    if value.ndim:
                        whole = safe_get_full_optimizer_state(parameter, name)
                    entry[name] = whole.detach().cpu().clone()
                if entry and self.accelerator.is_main_process:
                    entries[numbers[id(parameter)]] = entry
        if not self.accelerator.is_main_process:
            return {}
        groups = [
            {**group, "params": [numbers[id(parameter)] for parameter in parameters]}
            for group, parameters in zip(self.optimizer.param_groups, self._groups, strict=True)
        ]
        return {"state": entries, "param_groups": groups}

    def load_full_optimizer(self, state: dict[str, Any]) -> None:
        """Load what `full_optimizer` returned on the main process, given to every process."""
        for group, saved in zip(self.optimizer.param_groups, state["param_groups"], strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
        entries, numbers = state["state"], self._numbers()
        if not entries:
            return  # Saved before the first update.
        for flat, parameters in self._pieces():
            like = entries[numbers[id(parameters[0])]]
            self._zero.optimizer.state[flat] = {
                name: torch.zeros_like(flat) if value.ndim else value.to(flat.device, copy=True)
                for name, value in like.items()
            }
        if not self._cuts_weights():
            self._zero._lazy_init_hp_params_optimizer_state()  # Which is due at the first update.
        for parameter in (parameter for group in self._groups for parameter in group):
            for name, value in entries[numbers[id(parameter)]].items():
                if value.ndim:
                    self._fill_state(parameter, name, value)

    def _fill_state(self, parameter: Any, name: str, whole: torch.Tensor) -> None:
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if not self._cuts_weights():
            safe_set_full_optimizer_state(parameter, whole.to(parameter.device), name)
            return
        size = parameter.ds_tensor.numel()  # The last process's piece ends in zeros.
        padding = size * self.accelerator.num_processes - whole.numel()
        pieces = F.pad(whole.flatten(), (0, padding)).split(size)
        safe_set_local_optimizer_state(parameter, pieces[self.accelerator.process_index], name)

    def _pieces(self) -> Iterator[tuple[torch.Tensor, list[Any]]]:
        """Yield each flat float32 piece of this process, and the parameters it is cut from."""
        if self._cuts_weights():
            return zip(self._zero.fp32_partitioned_groups_flat, self._zero.fp16_groups, strict=True)
        flats = self._zero.single_partition_of_fp32_groups
        return zip(flats, self._zero.bit16_groups, strict=True)

    def _numbers(self) -> dict[int, int]:
        """Return the number of each parameter in a ``state_dict()``, by its id."""
        everything = (id(parameter) for group in self._groups for parameter in group)
        return {key: number for number, key in enumerate(everything)}

    def _cuts_weights(self) -> bool:
        return self.model.zero_optimization_stage() == 3

    def _is_cut(self) -> bool:
        return True

    def _shape(self, tensor: torch.Tensor) -> torch.Size:
        return getattr(tensor, "ds_shape", tensor.shape)

    def _gather(self, tensor: Any) -> Any:
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters(tensor):  # Does nothing where weights are whole.
            return tensor.detach().cpu().clone()

    def _fill(self, tensor: torch.Tensor, whole: torch.Tensor) -> None:
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters(tensor, modifier_rank=0):
            tensor.data.copy_(whole)
