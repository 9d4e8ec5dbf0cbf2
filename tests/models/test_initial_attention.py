"""Random weights whose attention looks at similar tokens, or at neighbours, from the first step."""

import pytest
import torch
from transformers import BertForPreTraining

from nlpapp.errors import ConfigError
from nlpapp.models.bert_size import BertSizeConfig, bert_config
from nlpapp.models.initial_attention import apply_initial_attention


def attention_of(ids: list[int], **size) -> torch.Tensor:
    """Return the first layer's attention (heads, S, S) of a random model over ``ids``."""
    torch.manual_seed(0)
    config = bert_config(BertSizeConfig(num_layers=2, **size), vocab_size=50)
    model = apply_initial_attention(BertForPreTraining(config).eval())
    model.set_attn_implementation("eager")
    return model.bert(input_ids=torch.tensor([ids]), output_attentions=True).attentions[0][0]


def test_similarity_start_makes_equal_words_attend_to_each_other():
    size = {"hidden_size": 64, "num_heads": 2, "initializer_range": 0.1}
    attention = attention_of([5, 6, 7, 8, 9, 10, 6, 11], similarity_start=True, **size).mean(0)
    others = [column for column in range(8) if column not in (1, 6)]
    assert attention[1, 6] > 2 * attention[1, others].max()


@pytest.mark.parametrize(
    ("hidden_size", "num_heads", "similarity_start"),
    [(128, 2, False), (128, 2, True), (256, 4, True), (768, 12, False)],
)
def test_neighbour_start_gives_each_head_its_offset(hidden_size, num_heads, similarity_start):
    size = {"hidden_size": hidden_size, "num_heads": num_heads, "initializer_range": 0.05}
    ids = torch.randint(5, 50, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    attention = attention_of(ids, neighbour_start=True, similarity_start=similarity_start, **size)
    middle = torch.arange(10, 30)
    for head, offset in zip(range(num_heads), [-1, 1, -2, 2, -3, 3] * 2, strict=False):
        if head >= 6:
            break
        # The mean over rows of what each distance gets has its peak at the head's offset.
        by_offset = {d: attention[head, middle, middle + d].mean().item() for d in range(-9, 10)}
        assert max(by_offset, key=by_offset.get) == offset
        assert by_offset[offset] > 4 * attention[head, middle].mean()


def test_without_a_start_attention_is_even():
    ids = torch.randint(5, 50, (40,), generator=torch.Generator().manual_seed(1)).tolist()
    assert attention_of(ids, hidden_size=128, num_heads=2).max() < 2 / 40


def test_neighbour_start_keeps_the_length_of_vectors_at_any_width():
    # An odd width of heads leaves one dimension of a head as it was.
    torch.manual_seed(0)
    size = BertSizeConfig(num_layers=1, hidden_size=10, num_heads=2, neighbour_start=True)
    before = BertForPreTraining(bert_config(size, vocab_size=50))
    query = before.bert.encoder.layer[0].attention.self.query.weight.clone()
    bert = apply_initial_attention(before).bert
    lengths = bert.embeddings.position_embeddings.weight.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((512,), 0.02 * 10**0.5))
    after = bert.encoder.layer[0].attention.self.query.weight
    assert torch.equal(after[4], query[4]) and not torch.equal(after[3], query[3])


@pytest.mark.parametrize(("hidden_size", "num_heads"), [(16, 1), (9, 1), (4, 4)])
def test_heads_that_cannot_look_at_neighbours_are_refused(hidden_size, num_heads):
    """One head's directions leave none to the words, and a head of width 1 has no sinusoids."""
    size = {"num_layers": 1, "hidden_size": hidden_size, "num_heads": num_heads}
    config = bert_config(BertSizeConfig(**size, neighbour_start=True), vocab_size=50)
    width = hidden_size // num_heads
    with pytest.raises(ConfigError, match=f"there are {num_heads} heads of width {width}; it need"):
        apply_initial_attention(BertForPreTraining(config))


def test_nothing_changes_unless_asked_for():
    torch.manual_seed(0)
    size = BertSizeConfig(num_layers=2, hidden_size=16, num_heads=2)
    model = BertForPreTraining(bert_config(size, vocab_size=50))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    apply_initial_attention(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
