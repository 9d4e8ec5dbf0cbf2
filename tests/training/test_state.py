"""The state of training goes through JSON unchanged."""

import dataclasses
import json

from nlpapp.training.state import TrainerState


def test_json_round_trip():
    state = TrainerState(step=3, epoch=1, tokens=10.0, best_value=0.5, best_metrics={"a": 0.1})
    assert TrainerState(**json.loads(json.dumps(dataclasses.asdict(state)))) == state
