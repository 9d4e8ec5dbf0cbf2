import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from nlpapp.errors import ConfigError
from nlpapp.models.text_cnn import (
    TextCnnConfig,
    TextCnnForSequenceClassification,
    TextCnnSizeConfig,
    build_text_cnn,
)

ROWS = [[5, 6, 7, 8, 9], [10], [11, 12, 13], [5, 9]]
SIZE = TextCnnSizeConfig(
    embedding_size=6, filters=4, filter_widths=[2, 3], classifier_size=5, dropout=0.0
)


def build(**options):
    torch.manual_seed(0)
    ends = {"vocab_size": 20, "pad_token_id": 0, "label_names": ("no", "yes")}
    return build_text_cnn(SIZE, **(ends | options)).eval()


def padded(rows, width):
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def test_default_sizes_are_those_of_the_paper():
    config = TextCnnConfig()
    assert (config.filters, config.filter_widths, config.dropout) == (100, [3, 4, 5], 0.5)


@torch.no_grad()
def test_vectors_are_the_largest_values_of_windows_written_out():
    model = build()
    encoder = model.encoder
    table = encoder.embeddings.weight.double().numpy()
    expected = np.zeros((len(ROWS), 8))
    for number, row in enumerate(ROWS):
        for index, convolution in enumerate(encoder.convolutions):
            weight = convolution.weight.double().numpy()  # (F, E, width)
            width = weight.shape[2]
            vectors = np.concatenate([table[row], np.zeros((width - 1, 6))])
            for unit in range(4):
                values = [
                    sum(vectors[start + j] @ weight[unit, :, j] for j in range(width))
                    + convolution.bias[unit].item()
                    for start in range(len(row))
                ]
                expected[number, 4 * index + unit] = max(0.0, *values)
    found = encoder(**padded(ROWS, 5))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@torch.no_grad()
def test_padding_and_what_stands_under_it_change_nothing():
    model = build()
    expected = model(**padded(ROWS, 5)).logits
    batch = padded(ROWS, 11)
    batch["input_ids"][batch["attention_mask"] == 0] = 3
    torch.testing.assert_close(model(**batch).logits, expected)


@torch.no_grad()
def test_folder_loads_in_the_auto_classes_with_equal_outputs(tmp_path):
    model = build(siamese=True)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, TextCnnForSequenceClassification)
    assert loaded.config.id2label == {0: "no", 1: "yes"}
    batch = padded(ROWS, 5)
    batch |= {f"{name}_b": value.flip(0) for name, value in padded(ROWS, 6).items()}
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_wrong_sizes_are_named():
    with pytest.raises(ConfigError, match="filter_widths is empty"):
        TextCnnConfig(filter_widths=[])
    with pytest.raises(ConfigError, match="a filter width is 0"):
        TextCnnConfig(filter_widths=[3, 0])
    with pytest.raises(ConfigError, match="filters is 0"):
        TextCnnConfig(filters=0)
