import json
import statistics
from dataclasses import replace

import pytest

from nlpapp.data.augmentation import AugmentationConfig
from nlpapp.models.bilstm import BiLstmSizeConfig
from nlpapp.models.pretrained import save_model_folder
from nlpapp.recipes import ablation, distill
from nlpapp.recipes.ablation_plan import Variant
from nlpapp.training import teacher_logits
from nlpapp.training.fit import TrainingConfig
from tests.deployment.models import build_model, load_tokenizer

ROWS = [
    (f"the {thing} was {word}", label)
    for thing in ("film", "cat", "dog", "bird", "river", "hill")
    for word, label in (("good", "good"), ("great", "good"), ("bad", "bad"), ("awful", "bad"))
]


@pytest.fixture
def config(tiny_tokenizer_folder, tmp_path, monkeypatch):
    # The pictures of each run take most of the time of runs so short.
    monkeypatch.setattr(distill, "report_student", lambda *paths, **facts: None)
    lines = ["sentence\tlabel", *("\t".join(row) for row in ROWS)]
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    model = build_model("bert", labels={0: "good", 1: "bad"})
    save_model_folder(model, tmp_path / "teacher", tokenizer=load_tokenizer(tiny_tokenizer_folder))
    return ablation.Config(
        output_dir=str(tmp_path / "run"),
        teacher=str(tmp_path / "teacher"),
        train_file=str(tmp_path / "train.tsv"),
        dev_file=str(tmp_path / "dev.tsv"),
        student=BiLstmSizeConfig(embedding_size=8, hidden_size=6, classifier_size=6),
        augmentation=AugmentationConfig(n_iter=0),
        max_seq_length=16,
        batch_size=8,
        seed=1,
        seeds=2,
        rounds=0,
        training=TrainingConfig(max_steps=2, tensorboard=False),
        variants=[
            Variant(name="labels", options={"objective.alpha": 1}),
            Variant(name="logits"),
            Variant(name="+ annealing", options={"objective.final_alpha": 1}, against="logits"),
        ],
    )


def test_a_stopped_ablation_goes_on_and_the_table_is_that_of_its_runs(config, monkeypatch):
    fit, trained, asked = distill.fit, [], []
    compute = teacher_logits._compute

    def stopping(**settings):
        folder = settings["run"].path
        trained.append(f"{folder.parent.name}/{folder.name}")
        if len(trained) == 4:
            raise KeyboardInterrupt
        return fit(**settings)

    def counting(*arguments, **options):
        asked.append(1)
        return compute(*arguments, **options)

    monkeypatch.setattr(distill, "fit", stopping)
    monkeypatch.setattr(teacher_logits, "_compute", counting)
    with pytest.raises(KeyboardInterrupt):
        ablation.run(config)
    metrics = ablation.run(config)
    names = [f"{name}/seed-{seed}" for name in ("labels", "logits", "annealing") for seed in (1, 2)]
    assert trained == [*names[:4], *names[3:]]
    # All runs learn from the same texts, so the teacher reads them once.
    assert len(asked) == 1
    output = config.output_dir
    found = {}
    for name in names:
        with open(f"{output}/{name}/metrics.json", encoding="utf-8") as file:
            found[name] = json.load(file)["accuracy"]
    pairs = zip(names[::2], names[1::2], strict=True)
    means = [statistics.mean((found[first], found[second])) for first, second in pairs]
    assert metrics["labels_accuracy_mean"] == pytest.approx(means[0])
    assert metrics["logits_accuracy_difference"] == pytest.approx(means[1] - means[0])
    assert metrics["annealing_accuracy_difference"] == pytest.approx(means[2] - means[1])
    assert {"logits_accuracy_difference_low", "logits_accuracy_sure"} <= metrics.keys()
    assert ablation.run(config) == metrics and len(trained) == 7


def test_the_table_is_there_though_costs_cannot_be_measured(config, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("no costs")

    monkeypatch.setattr(ablation, "measure_costs", fail)
    with pytest.raises(RuntimeError, match="no costs"):
        ablation.run(replace(config, rounds=1))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Variants: accuracy" in page and "Costs" not in page


def test_it_leaves_a_page_and_models_without_checkpoints(config, tmp_path):
    ablation.run(config)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "+ annealing" in page and "teacher" in page and "Costs" not in page
    for folder in (tmp_path / "run").glob("*/seed-*"):
        left = {path.name for path in folder.iterdir()}
        assert "model" in left and "checkpoints" not in left
