import numpy as np
import onnxruntime
import pytest
import torch

from nlpapp.deployment.bilstm_graph import build_bilstm_graph
from nlpapp.deployment.export import random_feeds
from tests.deployment.models import build_model


@pytest.mark.parametrize("pooling", ["last", "max", "mean"])
@pytest.mark.parametrize("siamese", [False, True])
@torch.inference_mode()
def test_graph_computes_what_the_module_does_at_every_batch_size_and_length(pooling, siamese):
    # An LSTM exported from packed sequences is wrong at other shapes (pytorch issue 62240).
    model = build_model("bilstm", pooling=pooling, siamese=siamese)
    names = ["input_ids", "attention_mask"]
    names += [name + "_b" for name in names] if siamese else []
    session = onnxruntime.InferenceSession(build_bilstm_graph(model).SerializeToString())
    assert [entry.name for entry in session.get_inputs()] == names
    for feed in random_feeds(model, names, max_seq_length=30, seed=1, batches=40):
        expected = model(**{name: torch.from_numpy(value) for name, value in feed.items()}).logits
        np.testing.assert_allclose(session.run(None, feed)[0], expected, atol=1e-5)


def test_sentences_of_a_pair_share_one_lstm_node():
    # Two nodes cannot share quantised weights: onnxruntime then looks for float ones.
    for siamese in (False, True):
        graph = build_bilstm_graph(build_model("bilstm", siamese=siamese)).graph
        assert sum(node.op_type == "LSTM" for node in graph.node) == 1
