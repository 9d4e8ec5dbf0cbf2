"""The whole chain on the sample corpus: each stage is the recipe that a user calls."""

import json
import time

from nlpapp.data.classification import Examples, read_examples
from nlpapp.disk import write_text
from nlpapp.evaluation.baselines import majority_accuracy, tfidf_accuracy
from nlpapp.evaluation.chain_report import Chain, claims, format_claims, write_chain_report
from nlpapp.evaluation.predictions import read_predictions
from nlpapp.recipes.quickstart_stages import Config, stages
from nlpapp.text.sample_corpus import write_sample
from nlpapp.training.run_folder import RunFolder

__all__ = ["Config", "run"]


def run(config: Config) -> dict[str, float]:
    """Run the stages that are not complete yet, and write the page."""
    run = RunFolder.open(config.output_dir, config=config, command="quickstart", seed=config.seed)
    if run.finished is not None:
        return run.finished
    sample = run.path / "sample"
    write_sample(sample, seed=config.seed)
    chain = stages(config, run.path)
    results: dict[str, dict[str, float]] = {}
    times = run.path / "seconds.json"
    seconds = json.loads(times.read_text("utf-8")) if times.is_file() else {}
    for number, stage in enumerate(chain, start=1):
        print(f"\n[{number}/{len(chain)}] {stage.title}", flush=True)
        start = time.monotonic()
        options = {"output_dir": str(run.path / stage.folder), "seed": config.seed} | stage.options
        results[stage.folder] = stage.recipe.run(stage.recipe.Config(**options))
        # A stage that an earlier start finished keeps the time it took then.
        seconds.setdefault(stage.folder, time.monotonic() - start)
        write_text(times, json.dumps(seconds, indent=2))
    train, test = (read_examples(sample / "task" / f"{name}.tsv") for name in ("train", "test"))
    yardsticks = _yardsticks(train, test)
    found = claims(results, yardsticks)
    metrics = _metrics(results, yardsticks, held=sum(claim.holds for claim in found))
    page = write_chain_report(
        Chain(
            folder=run.path,
            claims=found,
            stages=[(stage.folder, stage.title, seconds[stage.folder]) for stage in chain],
            models=json.loads((run.path / "benchmark" / "benchmark.json").read_text("utf-8")),
            labels=test.label_names,
            confusions={
                name: (
                    read_predictions(run.path / name / "predictions-test.tsv", test.label_names),
                    test.known_labels,
                )
                for name in ("teacher", "student")
            },
            example=test.texts_a[0],
        )
    )
    print(f"\n{format_claims(found)}\n\nThe whole story: {page}")
    run.finish(metrics)
    return metrics


def _yardsticks(train: Examples, test: Examples) -> dict[str, float]:
    truth = [test.label_names[label] for label in test.known_labels]
    known = [train.label_names[label] for label in train.known_labels]
    return {
        "majority": majority_accuracy(truth),
        "tfidf": tfidf_accuracy(train.texts_a, known, test.texts_a, truth),
    }


def _metrics(
    results: dict[str, dict[str, float]], yardsticks: dict[str, float], *, held: int
) -> dict[str, float]:
    """Return the figures of all stages under one name each."""
    flat = {f"{stage}/{name}": x for stage, found in results.items() for name, x in found.items()}
    return {"claims_that_hold": float(held)} | yardsticks | flat
