"""Which runs an ablation makes: variants of one distillation x seeds."""

import argparse
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser

from nlpapp.data.classification_sets import SetOptions
from nlpapp.errors import ConfigError, nearest
from nlpapp.recipes import distill
from nlpapp.recipes.distill_options import SIZES
from nlpapp.training.run_folder import flatten

if TYPE_CHECKING:
    from nlpapp.recipes.ablation import Config

SHARED = {"output_dir", "seed", "teacher", "tokenizer"} | {
    entry.name for entry in dataclasses.fields(SetOptions)
}
"""Options of a run that all variants share: the ablation sets them, or compares what they lead to
row by row, or beside the same teacher. train_file may differ where dev_file is another file."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train the student."""

    name: str
    """What tables call it; its runs are in the folder of this name."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of `nlpapp distill` that differ from the shared ones, such as objective.alpha: 1.
    Sizes of other architectures than the variant's are left out."""
    against: str | None = None
    """Variant that it is compared with; absent: the first."""


@dataclass(frozen=True, kw_only=True)
class PlannedVariant:
    """The runs of one variant."""

    name: str
    against: str | None
    """None: it is the one that the others are compared with."""
    runs: Sequence[distill.Config]
    """One for each seed, in their order."""

    @property
    def folders(self) -> list[Path]:
        """Where the runs are."""
        return [Path(run.output_dir) for run in self.runs]


def plan_variants(config: "Config") -> list[PlannedVariant]:
    """Return the variants with the options of each of their runs.

    Raises:
        ConfigError: no variant, or one that cannot be told apart, compared or trained.
    """
    names = [variant.name for variant in config.variants]
    folders = [re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") for name in names]
    if not names or not all(folders) or len(set(folders)) < len(folders):
        raise ConfigError(
            f"variants are called {names}; give at least one, and each a name whose letters and "
            "digits are its own."
        )
    plan = []
    for order, (variant, folder) in enumerate(zip(config.variants, folders, strict=True)):
        against = variant.against or (names[0] if order else None)
        if against is not None and (against not in names or against == variant.name):
            hint = nearest(against, [name for name in names if name != variant.name])
            raise ConfigError(
                f"variant '{variant.name}' is to be compared with '{against}', which is no other "
                f"variant.{hint}"
            )
        first = variant_config(config, variant)
        logits = config.teacher_logits or str(Path(config.output_dir, "teacher-logits"))
        runs = [
            dataclasses.replace(
                first,
                seed=seed,
                output_dir=str(Path(config.output_dir, folder, f"seed-{seed}")),
                teacher_logits=logits,
            )
            for seed in range(config.seed, config.seed + config.seeds)
        ]
        plan.append(PlannedVariant(name=variant.name, against=against, runs=runs))
    return plan


def variant_config(config: "Config", variant: Variant) -> distill.Config:
    """Return the options of ``variant``: the shared ones, and its own instead of them.

    Raises:
        ConfigError: an option that `nlpapp distill` does not have, or a value it does not take.
    """
    own = flatten(variant.options)
    free = {"train_file"} if config.dev_file is not None else set()
    for name in own:
        if name in SHARED - free:
            raise ConfigError(f"variant '{variant.name}' sets {name}; all variants share it.")
    architecture = own.get("architecture", config.architecture)
    settings = dataclasses.asdict(config)
    shared = {
        entry.name: settings[entry.name]
        for entry in dataclasses.fields(distill.Config)
        if SIZES.get(entry.name, architecture) == architecture
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(distill.Config, fail_untyped=True)
    try:
        built = parser.instantiate_classes(parser.parse_object(flatten(shared) | own))
        return distill.Config(**vars(built))
    except (argparse.ArgumentError, ConfigError) as error:
        raise ConfigError(f"variant '{variant.name}': {error}") from error
