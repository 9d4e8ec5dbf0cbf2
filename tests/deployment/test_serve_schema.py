import json

import pytest

pytest.importorskip("pydantic")

from nlpapp.deployment.serve_limits import LimitsConfig
from nlpapp.deployment.serve_schema import (
    EmbedRequest,
    ExplainRequest,
    PredictRequest,
    TooLargeError,
    parse,
    request_schema,
)
from nlpapp.errors import DataError

LIMITS = LimitsConfig(max_rows=3, max_characters=10)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Invalid JSON"),
        (b"{", "Invalid JSON"),
        (b"[]", "Input should be an object"),
        (b"null", "Input should be an object"),
        (b'{"texts": []}', "texts: List should have at least 1 item"),
        (b'{"texts": "good"}', "texts: Input should be a valid array"),
        (b'{"texts": [1]}', "texts.0: Input should be a valid string"),
        (b'{"texts": [null]}', "texts.0: Input should be a valid string"),
        (b'{"texts": [" "]}', "texts.0: empty"),
        (b'{"texts": ["\xff"]}', "Invalid JSON: invalid unicode"),
        (b'{"texts": ["\\ud800"]}', "Invalid JSON"),
        (b'{"texts": ["a"], "text": "b"}', "text: there is no such key"),
        (b'{"texts": ["a"], "pairs": ["b", "c"]}', "1 texts and 2 pairs"),
        (b'{"texts": ["a"], "pairs": []}', "pairs: List should have at least 1 item"),
        (b'{"texts": ["a"], "model": "../../etc/passwd"}', "model: not a name"),
        (b'{"texts": ["a"], "model": "/etc/passwd"}', "model: not a name"),
        (b'{"texts": ["a"], "model": ""}', "model: not a name"),
        (b'{"texts": ["a"], "model": "a\\u0000b"}', "model: not a name"),
        (b'{"texts":' + b"[" * 100_000, "Invalid JSON"),
    ],
)
def test_bodies_of_another_form_are_refused_with_the_place(body, message):
    with pytest.raises(DataError, match=message):
        parse(PredictRequest, body, LIMITS)


def test_a_refusal_quotes_no_text():
    body = json.dumps({"texts": [["a very private text"]], "pairs": 5}).encode()
    with pytest.raises(DataError) as caught:
        parse(PredictRequest, body, LIMITS)
    assert "private" not in str(caught.value)


def test_many_rows_and_long_texts_are_too_large():
    rows = json.dumps({"texts": ["a"] * 4}).encode()
    with pytest.raises(TooLargeError, match="4 texts; at most 3"):
        parse(PredictRequest, rows, LIMITS)
    long = json.dumps({"texts": ["a", "b"], "pairs": ["c", "d" * 11]}).encode()
    with pytest.raises(TooLargeError, match="a text of 11 characters; at most 10"):
        parse(PredictRequest, long, LIMITS)
    with pytest.raises(TooLargeError, match="a text of 11"):
        parse(ExplainRequest, json.dumps({"text": "d" * 11}).encode(), LIMITS)


def test_what_fits_is_read():
    body = json.dumps({"texts": ["na\u00efve", "\U0001f600"], "pairs": ["a", "b"]}).encode()
    found = parse(EmbedRequest, body, LIMITS)
    assert found.texts == ["na\u00efve", "\U0001f600"]
    assert (found.pairs, found.model, found.pooling, found.layer) == (["a", "b"], None, "mean", -1)


def test_unknown_poolings_and_layers_without_end_are_refused():
    for options in ({"pooling": "sum"}, {"layer": 10**30}, {"layer": 1.5}, {"layer": True}):
        with pytest.raises(DataError, match=next(iter(options))):
            parse(EmbedRequest, json.dumps({"texts": ["a"], **options}).encode(), LIMITS)


def test_the_schema_has_the_limits_of_the_server():
    content = request_schema(PredictRequest, LIMITS)["content"]["application/json"]["schema"]
    texts = content["properties"]["texts"]
    assert (texts["minItems"], texts["maxItems"], texts["items"]["maxLength"]) == (1, 3, 10)
    pairs = content["properties"]["pairs"]["anyOf"][0]
    assert (pairs["maxItems"], pairs["items"]["maxLength"]) == (3, 10)
    content = request_schema(ExplainRequest, LIMITS)["content"]["application/json"]["schema"]
    assert content["properties"]["text"]["maxLength"] == 10
    assert content["additionalProperties"] is False
