"""The state of training goes through JSON unchanged."""

import dataclasses
import json

from nlpapp.training.state import TrainerState, add_sums


def test_json_round_trip():
    state = TrainerState(step=3, epoch=1, tokens=10.0, best_value=0.5, best_metrics={"a": 0.1})
    assert TrainerState(**json.loads(json.dumps(dataclasses.asdict(state)))) == state


def test_sums_are_added_name_by_name():
    sums = {"loss": [1.0, 2.0]}
    add_sums(sums, {"loss": (3.0, 4.0), "accuracy": (5.0, 6.0)})
    assert sums == {"loss": [4.0, 6.0], "accuracy": [5.0, 6.0]}
