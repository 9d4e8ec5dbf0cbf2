import pytest

from nlpapp.data.augmentation import AugmentationConfig
from nlpapp.errors import ConfigError
from nlpapp.models.bilstm import BiLstmSizeConfig
from nlpapp.models.student_bert import StudentBertConfig
from nlpapp.recipes import ablation, distill
from nlpapp.recipes.ablation_plan import Variant, plan_variants

SHARED = {
    "teacher": "teacher",
    "student": BiLstmSizeConfig(hidden_size=7),
    "augmentation": AugmentationConfig(n_iter=0, p_mask=0.2),
    "max_seq_length": 48,
    "seed": 5,
    "seeds": 2,
}


def config_of(*variants, **options):
    return ablation.Config(output_dir="run", variants=list(variants), **SHARED | options)


def test_a_variant_is_the_shared_options_and_its_own():
    config = config_of(
        Variant(name="Labels", options={"objective": {"alpha": 1}}),
        Variant(name="+ new texts", options={"augmentation.n_iter": 3, "batch_size": 8}),
    )
    first, second = plan_variants(config)
    assert [job.output_dir for job in second.runs] == [
        "run/new-texts/seed-5",
        "run/new-texts/seed-6",
    ]
    assert [job.seed for job in second.runs] == [5, 6]
    assert (first.against, second.against) == (None, "Labels")
    shared = {name: SHARED[name] for name in ("teacher", "student", "max_seq_length")}
    shared["teacher_logits"] = "run/teacher-logits"
    assert first.runs[0] == distill.Config(
        output_dir="run/labels/seed-5",
        seed=5,
        objective=distill.DistillationConfig(alpha=1.0),
        augmentation=SHARED["augmentation"],
        **shared,
    )
    assert second.runs[1] == distill.Config(
        output_dir="run/new-texts/seed-6",
        seed=6,
        augmentation=AugmentationConfig(n_iter=3, p_mask=0.2),
        batch_size=8,
        **shared,
    )


def test_sizes_of_other_architectures_are_left_out():
    bert = {"architecture": "bert", "bert": {"layers": [1]}}
    config = config_of(Variant(name="lstm"), Variant(name="bert", options=bert, against="lstm"))
    job = plan_variants(config)[1].runs[0]
    assert job.student == BiLstmSizeConfig() and job.bert == StudentBertConfig(layers=[1])


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ([], "give at least one"),
        ([{"name": "a b"}, {"name": "A-b"}], "letters and digits are its own"),
        ([{"name": "+"}], "letters and digits are its own"),
        ([{"name": "a"}, {"name": "b", "against": "aa"}], "with 'aa', which is no other"),
        ([{"name": "a", "against": "a"}], "with 'a', which is no other"),
        ([{"name": "a", "options": {"seed": 3}}], "'a' sets seed; all variants share it"),
        ([{"name": "a", "options": {"split_seed": 7}}], "'a' sets split_seed; all"),
        ([{"name": "a", "options": {"dev_file": "other.tsv"}}], "'a' sets dev_file; all"),
        ([{"name": "a", "options": {"teacher": "big"}}], "'a' sets teacher; all"),
        ([{"name": "a", "options": {"train_file": "other.tsv"}}], "'a' sets train_file; all"),
        ([{"name": "a", "options": {"objective": {"alpa": 1}}}], "variant 'a': .*alpa"),
        ([{"name": "a", "options": {"batch_size": "many"}}], "variant 'a': .*batch_size"),
        ([{"name": "a", "options": {"objective.alpha": 2}}], "variant 'a': alpha is 2.0"),
    ],
)
def test_variants_that_cannot_be_are_refused(variants, message):
    with pytest.raises(ConfigError, match=message):
        config_of(*(Variant(**variant) for variant in variants))


def test_other_options_that_cannot_be_are_refused():
    for options in ({"seeds": 0}, {"rounds": -1}, {"threads": 0}):
        with pytest.raises(ConfigError, match=f"{next(iter(options))} is"):
            config_of(Variant(name="a"), **options)
