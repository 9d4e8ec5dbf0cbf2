"""Two processes (gloo) train as one does."""

import torch

from tests.training.toy import NUM_EXAMPLES
from tests.training.toy_runs import run_processes


def test_two_processes_equal_one(tmp_path):
    """70 examples in steps of 8: the last step of an epoch has 6, three for each process."""
    one, two = run_processes(tmp_path / "one", 1), run_processes(tmp_path / "two", 2)
    for name, value in one["state"].items():
        torch.testing.assert_close(two["state"][name], value, atol=1e-6, rtol=0)
    # Rows come back in the order of the examples, none lost or repeated.
    assert two["rows"].shape == (NUM_EXAMPLES,)
    torch.testing.assert_close(two["rows"], one["rows"], atol=1e-5, rtol=0)
