import numpy as np
import pytest
from scipy.spatial.distance import cdist

from nlpapp.evaluation.neighbours import nearest_rows

VECTORS = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)


@pytest.mark.parametrize("block", [1, 7, 50])
@pytest.mark.parametrize("count", [1, 5, 50])
def test_neighbours_are_those_of_scipy(block, count):
    query = np.random.default_rng(1).normal(size=8)
    found = nearest_rows(query, np.array_split(VECTORS, range(block, 50, block)), count)
    cosines = 1 - cdist(VECTORS, query[None], "cosine")[:, 0]
    assert [row for row, _ in found] == np.argsort(-cosines)[:count].tolist()
    np.testing.assert_allclose([cosine for _, cosine in found], np.sort(cosines)[::-1][:count])


def test_a_row_is_its_own_neighbour():
    row, cosine = nearest_rows(VECTORS[17], [VECTORS], 1)[0]
    assert row == 17 and cosine == pytest.approx(1)


def test_equal_rows_come_in_their_order_and_fewer_rows_than_asked_come_all():
    blocks = [np.ones((2, 3)), np.zeros((1, 3)), np.ones((1, 3))]
    found = nearest_rows(np.ones(3), blocks, 9)
    assert [row for row, _ in found] == [0, 1, 3, 2]
    assert [cosine for _, cosine in found] == pytest.approx([1, 1, 1, 0])


def test_no_rows_have_no_neighbours():
    assert nearest_rows(np.ones(3), [], 5) == []
