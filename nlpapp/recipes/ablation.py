"""What each part of a distillation is worth: variants of one student, over seeds."""

import json
import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from nlpapp.data.classification_sets import ClassificationSets, sets_of
from nlpapp.disk import read_json, write_json
from nlpapp.errors import ConfigError
from nlpapp.evaluation.ablation_page import write_ablation_page
from nlpapp.evaluation.ablation_table import VariantResult, ablation_rows
from nlpapp.evaluation.plots import format_number
from nlpapp.evaluation.prediction_table import read_prediction_table
from nlpapp.recipes import distill
from nlpapp.recipes.ablation_costs import measure_costs
from nlpapp.recipes.ablation_plan import PlannedVariant, Variant, plan_variants
from nlpapp.training.processes import process_state
from nlpapp.training.run_folder import RunFolder

logger = logging.getLogger("nlpapp")


@dataclass(frozen=True, kw_only=True)
class Config(distill.Config):
    """Distil in several variants over seeds, and say what each part is worth and costs.

    All options of `nlpapp distill` are shared by the variants; output_dir holds a folder for each
    run, which is not repeated once it is finished.
    """

    variants: list[Variant] = field(default_factory=list)
    """The variants; each has a name and the options in which it differs."""
    seeds: int = 5
    """Runs of each variant, with seed, seed + 1 and so on."""
    rounds: int = 200
    """Timed predictions of one text for each model, and a tenth of them of 32; 0: none is timed."""
    threads: int = 1
    """Processor threads that a timed model may use."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("seeds", 1), ("rounds", 0), ("threads", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; use {least} or more.")
        plan_variants(self)


def run(config: Config) -> dict[str, float]:
    """Make the runs that are missing; leave the table, the Pareto page and the report."""
    run = RunFolder.open(config.output_dir, config=config, command="ablation", seed=config.seed)
    if run.finished is not None:
        return run.finished
    plan = plan_variants(config)
    for planned in plan:
        for job in planned.runs:
            distill.run(job)
            process_state().wait_for_everyone()
            # The model stays; what it was resumed from is many times its size.
            for of_run in ("checkpoints", "pruned/checkpoints"):
                shutil.rmtree(Path(job.output_dir, of_run), ignore_errors=True)
    # The runs have sent the log to their own folders.
    run = RunFolder.open(config.output_dir, config=config, command="ablation", seed=config.seed)
    sets = sets_of(config)
    results = [_result(planned) for planned in plan]
    rows = ablation_rows(results, sets.metrics, seed=config.seed)
    metrics = _flat(plan, rows)
    metrics["seconds"] = sum(figures["seconds"] for one in results for figures in one.figures)
    if run.is_main:
        for row in rows:
            logger.info("  ".join(f"{name} {format_number(x)}" for name, x in row.items()))
        page = (sets.metrics, config.threads)
        # What was trained for hours is there to be read before its costs are measured.
        write_ablation_page(run.path, results, rows, [], *page)
        write_ablation_page(run.path, results, rows, _costs(run, config, sets, plan), *page)
    run.finish(metrics)
    return metrics


def _result(planned: PlannedVariant) -> VariantResult:
    folders = planned.folders
    texts = [(folder / "metrics.json").read_text(encoding="utf-8") for folder in folders]
    tables = [read_prediction_table(folder / "predictions-dev.tsv") for folder in folders]
    return VariantResult(
        name=planned.name,
        against=planned.against,
        figures=[json.loads(text) for text in texts],
        tables=[table for table in tables if table is not None],
        folders=folders,
    )


def _flat(plan: list[PlannedVariant], rows: list[dict[str, object]]) -> dict[str, float]:
    """Return the table as figures: <folder of the variant>_<metric>_<column>."""
    folders = {planned.name: planned.folders[0].parent.name for planned in plan}
    return {
        f"{folders[str(row['variant'])]}_{row['metric']}_{name}": float(value)
        for row in rows
        for name, value in row.items()
        if isinstance(value, int | float)
    }


def _costs(
    run: RunFolder, config: Config, sets: ClassificationSets, plan: list[PlannedVariant]
) -> list[dict[str, object]]:
    """Return what the models cost, measured once for this folder."""
    path = run.path / "costs.json"
    found = read_json(path)
    if found is None:
        dev = next(iter(sets.dev.values()))
        rows = measure_costs(config, dev, sets.metrics, plan) if config.rounds else []
        found = {"models": rows}
        write_json(path, found)
    return list(found["models"])
