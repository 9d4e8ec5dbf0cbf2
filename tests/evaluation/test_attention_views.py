import numpy as np
import pytest
from matplotlib.image import imread

from nlpapp.evaluation.attention_views import (
    AttentionPicture,
    filled_segments,
    plot_head_view,
    plot_model_view,
    plot_neuron_view,
    plot_views,
    products,
    readable_tokens,
)

TOKENS = ["[CLS]", "the", "$cat$", "[SEP]"]


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def picture(*, layers=2, heads=2, tokens=TOKENS, memory=0, width=8, positions=False, seed=0):
    """A picture whose weights are the softmax of its products."""
    rng = np.random.default_rng(seed)
    keys, queries = len(tokens), len(tokens) - memory

    def draw(rows):
        return rng.normal(size=(layers, heads, rows, width)).astype(np.float32)

    parts = {"queries": draw(queries), "keys": draw(keys)}
    scales = np.full(layers, width**-0.5, np.float32)
    scores = parts["queries"] @ parts["keys"].swapaxes(-1, -2)
    if positions:
        parts |= {"position_queries": draw(queries), "position_keys": draw(keys)}
        for i, j in np.ndindex(queries, keys):
            at = parts["position_keys"][:, :, max(memory + i - j, 0)]
            scores[:, :, i, j] += (parts["position_queries"][:, :, i] * at).sum(-1)
        scores[:, :, np.arange(keys) > memory + np.arange(queries)[:, None]] = -np.inf
    weights = softmax(scores * scales[:, None, None, None])
    return AttentionPicture(
        key_tokens=tokens, memory=memory, weights=weights, scales=scales, **parts
    )


def test_products_add_up_to_the_scores():
    for made in (picture(), picture(tokens=list("abcdef"), memory=2, positions=True)):
        for query in range(len(made.query_tokens)):
            scores = products(made, 1, 0, query).sum(-1) * made.scales[1]
            scores = np.where(np.isnan(scores), -np.inf, scores)
            np.testing.assert_allclose(softmax(scores), made.weights[1, 0, query], atol=1e-5)


def test_of_layers_keeps_numbers_and_names():
    made = picture(layers=3).of_layers([0, 2])
    assert made.layer_numbers == [0, 2]
    np.testing.assert_array_equal(made.keys, picture(layers=3).keys[[0, 2]])
    assert made.position_keys is None
    assert made.of_layers([1]).layer_numbers == [2]


def test_queries_are_the_last_tokens():
    assert picture(memory=1).query_tokens == TOKENS[1:]
    with pytest.raises(AssertionError):
        AttentionPicture(key_tokens=["one"], weights=np.ones((1, 1, 2, 2)))


def test_special_tokens_belong_to_the_text_before_them():
    assert filled_segments([None, 0, 0, None, None, 1, None]) == [0, 0, 0, 0, 0, 1, 1]


def test_byte_level_pieces_become_letters():
    texts = {"\u0120caf\u00c3": " caf\N{REPLACEMENT CHARACTER}", "\u0120the": " the", "s": "s"}
    found = readable_tokens(list(texts), lambda pieces: texts[pieces[0]])
    assert found == ["\u0120caf\u00c3", " the", "s"]
    assert readable_tokens(["the", "##s"], lambda pieces: "wrong") == ["the", "##s"]


def dark_share(path):
    """Share of the pixels that are far from white."""
    return float((imread(path)[:, :, :3].min(-1) < 0.75).mean())


def test_head_view_shows_the_chosen_heads_and_any_token(tmp_path):
    made = picture(heads=3)
    every = plot_head_view(made, tmp_path / "deep" / "every.png", layer=0)
    one = plot_head_view(made, tmp_path / "one.png", layer=0, heads=[2])
    none = plot_head_view(made, tmp_path / "none.png", layer=0, heads=[])
    assert imread(every).shape == imread(one).shape
    # Lines of three heads cover more than those of one, and those of one more than the words.
    ink = [(imread(path)[:, :, :3].min(-1) < 0.99).mean() for path in (every, one, none)]
    assert ink[0] > ink[1] > ink[2] > 0


def test_model_view_grows_with_layers_and_heads(tmp_path):
    few = imread(plot_model_view(picture(), tmp_path / "few.png"))
    many = imread(plot_model_view(picture(layers=4, heads=3), tmp_path / "many.png"))
    assert many.shape[0] > few.shape[0]
    assert many.shape[1] > few.shape[1]


def test_model_view_shows_where_attention_goes(tmp_path):
    # All weight in the last key: the right half of the figure is darker than the left.
    weights = np.zeros((1, 1, 4, 4))
    weights[..., 3] = 1.0
    path = plot_model_view(AttentionPicture(key_tokens=TOKENS, weights=weights), tmp_path / "a.png")
    image = imread(path)[:, :, :3].mean(-1)
    half = image.shape[1] // 2
    assert image[:, half:].mean() < image[:, :half].mean() - 0.1


def test_neuron_view_of_both_kinds(tmp_path):
    plain = plot_neuron_view(picture(), tmp_path / "a.png", layer=1, head=0, query=2)
    memory = picture(tokens=list("abcdef"), memory=2, positions=True)
    relative = plot_neuron_view(memory, tmp_path / "b.png", layer=0, head=1, query=0)
    assert dark_share(plain) > 0.05
    assert dark_share(relative) > 0.05


def test_all_views_and_without_queries_two(tmp_path):
    plot_views(picture(), tmp_path / "three", layer=0, head=None, query=0)
    bare = AttentionPicture(key_tokens=TOKENS, weights=picture().weights)
    plot_views(bare, tmp_path / "two", layer=0, head=1, query=0)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        "head_view.png",
        "model_view.png",
    }
    assert (tmp_path / "three" / "neuron_view.png").is_file()


def test_letters_that_the_font_lacks_are_reported(tmp_path, caplog):
    made = picture(tokens=["\N{CJK UNIFIED IDEOGRAPH-65E5}", "b"])
    plot_head_view(made, tmp_path / "a.png", layer=0)
    assert "font lacks some letters" in caplog.text
