import numpy as np
import pytest

from nlpapp.evaluation.student import score_student

LABELS = np.array([0, 0, 1, 1, 1])
STUDENT = np.eye(2)[[0, 1, 1, 1, 0]]  # 3 of 5 right
TEACHER = np.eye(2)[[0, 0, 1, 1, 0]]  # 4 of 5 right


def test_student_and_teacher_are_compared():
    found = score_student(STUDENT, TEACHER, LABELS, ("accuracy", "f1"), seed=1)
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["teacher_accuracy"] == pytest.approx(0.8)
    assert found["retained"] == pytest.approx(0.75)
    assert found["agreement"] == pytest.approx(0.8)
    assert "teacher_f1" in found and "accuracy_low" in found


def test_without_a_teacher_there_is_nothing_to_compare():
    found = score_student(STUDENT, None, LABELS, ("accuracy",), seed=1)
    assert not [name for name in found if name.startswith(("teacher", "agreement", "retained"))]


def test_a_teacher_that_gets_nothing_right_retains_nothing():
    found = score_student(STUDENT, 1 - np.eye(2)[LABELS], LABELS, ("accuracy",), seed=1)
    assert found["teacher_accuracy"] == 0 and "retained" not in found
