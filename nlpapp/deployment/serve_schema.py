"""The forms of the requests and answers of a server, as OpenAPI describes them."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nlpapp.deployment.serve_limits import LimitsConfig
from nlpapp.errors import DataError, NlpappError

Text = Annotated[str, Field(pattern=r"\S")]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class TooLargeError(NlpappError):
    """A request of more rows, or longer texts, than the server allows."""


class UnknownModelError(NlpappError):
    """A model that the server does not have."""


class _Form(BaseModel):
    # Strict: the number 1 is no text, and a key that nobody reads is a mistake of the sender.
    model_config = ConfigDict(strict=True, extra="forbid")


class PredictRequest(_Form):
    """Texts to classify or to score."""

    texts: Annotated[list[Text], Field(min_length=1, description="The texts.")]
    pairs: Annotated[
        list[Text] | None, Field(min_length=1, description="The second text of each.")
    ] = None
    model: Annotated[ModelName | None, Field(description="Absent: the first model.")] = None


class EmbedRequest(PredictRequest):
    """Texts to turn into vectors."""

    pooling: Annotated[
        Literal["mean", "cls", "max"],
        Field(description="Mean or maximum of the tokens' vectors, or that of the first token."),
    ] = "mean"
    layer: Annotated[
        int,
        Field(ge=-1000, le=1000, description="0 is the embeddings, -1 the last layer."),
    ] = -1


class ExplainRequest(_Form):
    """A text, or a pair, whose words are left out in turn."""

    text: Text
    pair: Text | None = None
    model: Annotated[ModelName | None, Field(description="Absent: the first model.")] = None


class Prediction(BaseModel):
    """The answer to one text: a label with its probabilities, or the score of a regression."""

    label: str | None = None
    probabilities: dict[str, float] | None = None
    score: float | None = None


class PredictResponse(BaseModel):
    """One prediction a text, in the order of the request."""

    model: str
    predictions: list[Prediction]


class EmbedResponse(BaseModel):
    """One vector a text, in the order of the request."""

    model: str
    pooling: str
    layer: int
    embeddings: list[list[float]]


class WordWeight(BaseModel):
    """What a word adds to the probability of the label, or to the score."""

    side: Annotated[int, Field(description="0: in text, 1: in pair.")]
    start: Annotated[int, Field(description="Its first character, counted in code points.")]
    end: Annotated[int, Field(description="The character behind its last.")]
    word: str
    weight: float


class ExplainResponse(BaseModel):
    """The prediction, and the weight of each word in the order of the text."""

    model: str
    prediction: Prediction
    words: list[WordWeight]


class ModelDescription(BaseModel):
    """A model of the server."""

    name: str
    kind: Literal["classifier", "regression", "encoder"]
    labels: list[str]
    pairs: Annotated[bool, Field(description="Whether it was made for pairs.")]
    layers: list[int]
    hidden_size: int | None
    max_length: Annotated[int | None, Field(description="Tokens it reads; the rest is cut.")]
    answers: list[str]


class ModelsResponse(BaseModel):
    """The models of the server; the first answers requests that name none."""

    models: list[ModelDescription]


class StateResponse(BaseModel):
    """Whether the server is there, or ready."""

    status: str


class ErrorResponse(BaseModel):
    """What is wrong with the request, or with the server."""

    error: str


def parse(form: type[_Form], body: bytes, limits: LimitsConfig) -> Any:
    """Return the request in ``body``.

    Raises:
        DataError: it is not JSON in UTF-8, or not of this form; the message quotes no text.
        TooLargeError: it has too many rows, or too long a text.
    """
    try:
        request = form.model_validate_json(body)
    except ValidationError as error:
        raise DataError("; ".join(_explain(fault) for fault in error.errors()[:3])) from None
    if isinstance(request, ExplainRequest):
        texts = [request.text, request.pair or ""]
    else:
        texts, pairs = request.texts, request.pairs  # type: ignore[attr-defined]
        if len(texts) > limits.max_rows:
            raise TooLargeError(f"{len(texts)} texts; at most {limits.max_rows} at once.")
        if pairs is not None and len(pairs) != len(texts):
            raise DataError(f"{len(texts)} texts and {len(pairs)} pairs; give one for each.")
        texts = [*texts, *(pairs or ())]
    longest = max(map(len, texts))
    if longest > limits.max_characters:
        raise TooLargeError(
            f"a text of {longest} characters; at most {limits.max_characters} are read."
        )
    return request


def _explain(fault: Any) -> str:
    place = ".".join(str(part)[:40] for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{place}: there is no such key"
    if fault["type"] == "string_pattern_mismatch":
        return f"{place}: {'not a name' if place.startswith('model') else 'empty'}"
    return f"{place}: {fault['msg']}" if place else str(fault["msg"])


def request_schema(form: type[_Form], limits: LimitsConfig) -> dict[str, Any]:
    """Return the `requestBody` of OpenAPI for ``form``, with the limits of this server."""
    schema = form.model_json_schema()
    schema = json.loads(json.dumps(schema))
    for name in ("texts", "pairs", "text", "pair"):
        entry = schema["properties"].get(name)
        for part in [entry, *entry.get("anyOf", ())] if entry else ():
            if part.get("type") == "array":
                part["maxItems"] = limits.max_rows
                part["items"]["maxLength"] = limits.max_characters
            elif part.get("type") == "string":
                part["maxLength"] = limits.max_characters
    return {"required": True, "content": {"application/json": {"schema": schema}}}
