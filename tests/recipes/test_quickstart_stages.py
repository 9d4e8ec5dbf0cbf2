"""The stages of the quickstart compare like with like."""

from nlpapp.recipes.quickstart_stages import Config, stages


def test_stages_compare_like_with_like(tmp_path):
    """The baselines differ from what they are compared with in one thing only."""
    found = {stage.folder: stage.options for stage in stages(Config(), tmp_path)}
    scratch = found["teacher-from-scratch"]
    assert scratch == found["teacher"] | {"from_scratch": True}
    student, hard = found["student"], found["student-hard-labels"]
    differing = {name for name in hard if hard[name] != student.get(name)}
    assert differing == {"objective", "augmentation", "training"}
    augmented = student["training"].num_epochs * (1 + student["augmentation"].n_iter)
    assert hard["training"].num_epochs == augmented
