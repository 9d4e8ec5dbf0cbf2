import pytest

from nlpapp.data.pretraining_instances import PretrainingOptions
from nlpapp.data.pretraining_phases import Phase, data_sets
from nlpapp.errors import ConfigError

OPTIONS = PretrainingOptions(dupe_factor=10, max_predictions_per_seq=20, masked_lm_prob=0.2)


def test_without_phases_there_is_one_data_set():
    assert data_sets(OPTIONS, None) == data_sets(OPTIONS, []) == [("", OPTIONS)]


def test_a_phase_changes_what_it_names():
    phases = [Phase(name="phase1", max_seq_length=128), Phase(name="phase2", max_seq_length=512)]
    (first, one), (second, two) = data_sets(OPTIONS, phases)
    assert (first, second) == ("phase1", "phase2")
    assert one.max_seq_length == 128 and two.max_seq_length == 512
    assert one.dupe_factor == two.dupe_factor == 10 and two.masked_lm_prob == 0.2
    # Twenty predictions were for the length of the whole run.
    assert two.masking_options().max_predictions == 103
    phase = Phase(name="x", max_seq_length=64, dupe_factor=2, max_predictions_per_seq=7)
    ((_, three),) = data_sets(OPTIONS, [phase])
    assert three.dupe_factor == 2 and three.max_predictions_per_seq == 7


@pytest.mark.parametrize("names", [["a", "a"], ["a/b"], [""], [".."], ["unfinished"]])
def test_names_are_folders(names):
    with pytest.raises(ConfigError, match="expected different names of folders"):
        data_sets(OPTIONS, [Phase(name=name, max_seq_length=64) for name in names])


def test_bad_lengths_are_named():
    with pytest.raises(ConfigError, match="max_seq_length 5"):
        data_sets(OPTIONS, [Phase(name="a", max_seq_length=5)])
