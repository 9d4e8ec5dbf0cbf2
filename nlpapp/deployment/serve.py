"""The HTTP interface of exported models: /predict, /embed, /explain, and the page at /.

Requests of many clients are computed together (`serve_batching`), within limits (`serve_limits`).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from nlpapp import __version__
from nlpapp.deployment.runtime import BATCH_TOKENS
from nlpapp.deployment.serve_batching import (
    AbandonedError,
    Batcher,
    ExpiredError,
    OverloadedError,
)
from nlpapp.deployment.serve_limits import Guard, Key, LimitsConfig, if_there
from nlpapp.deployment.serve_metrics import Metrics
from nlpapp.deployment.serve_models import (
    Row,
    ServedModel,
    Word,
    batch_key,
    find_words,
    without_word,
    word_weights,
)
from nlpapp.deployment.serve_page import CONTENT_SECURITY_POLICY, PAGE
from nlpapp.deployment.serve_schema import (
    EmbedRequest,
    EmbedResponse,
    ErrorResponse,
    ExplainRequest,
    ExplainResponse,
    ModelsResponse,
    PredictRequest,
    PredictResponse,
    StateResponse,
    TooLargeError,
    UnknownModelError,
    parse,
    request_schema,
)
from nlpapp.errors import DataError

Endpoint = Callable[[Request], Awaitable[Response]]

STATUSES: dict[type[Exception], int] = {
    DataError: 422,
    TooLargeError: 413,
    UnknownModelError: 404,
    OverloadedError: 429,
    ExpiredError: 503,
    AbandonedError: 499,  # nobody reads it; the log and the figures have it
}
FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        401: "No valid key.",
        404: "No such model.",
        408: "The body came too slowly.",
        413: "More rows, characters or bytes than the server allows.",
        422: "Not JSON, or not of the form of this request.",
        429: "The queue is full: try again after Retry-After seconds.",
        503: "The rows waited too long, there are too many connections, or the server stops: try "
        "again after Retry-After seconds.",
    }.items()
}
PATHS = ("/", "/health", "/ready", "/metrics", "/openapi.json", "/models")
POST_PATHS = ("/predict", "/embed", "/explain")


class Service:
    """Models, each with the batcher before it."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        limits: LimitsConfig,
        metrics: Metrics,
        *,
        threads: int = 1,
    ) -> None:
        """Make a service of ``models``; the first answers requests that name none.

        Each model computes up to ``threads`` batches at the same time.
        """
        self.threads = threads
        self.models = dict(models)
        self.limits = limits
        self.metrics = metrics
        self.draining = False
        """While true /ready says 503, so that load balancers send no more."""
        self.batchers: dict[str, Batcher] = {}

    async def start(self) -> None:
        """Start the batchers and compute one row with each model, for first runs are slow."""
        for name, model in self.models.items():
            self.batchers[name] = batcher = self._batcher(name, model)
            batcher.start()
        for name, model in self.models.items():
            siamese = getattr(model.reader, "siamese", False)
            row: Row = ("warm up", "warm up" if siamese else None)
            pooling, layer = ("mean", -1) if model.kind == "encoder" else (None, None)
            if model.kind == "encoder":
                layer = model.describe()["layers"][-1]
            key = batch_key([row], pooling=pooling, layer=layer)
            await self.batchers[name].submit([row], key=key)

    async def stop(self) -> None:
        """Compute what waits, then end the batchers."""
        await asyncio.gather(*(batcher.stop() for batcher in self.batchers.values()))

    @property
    def ready(self) -> bool:
        """Whether the service takes requests."""
        alive = len(self.batchers) == len(self.models)
        return alive and not self.draining and all(b.alive for b in self.batchers.values())

    def _batcher(self, name: str, model: ServedModel) -> Batcher:
        def observe(rows: int, seconds: float) -> None:
            self.metrics.batch(name, rows, seconds, batcher.queued_rows)

        batcher = Batcher(
            model.compute,
            read=model.read,
            threads=self.threads,
            max_positions=BATCH_TOKENS,
            max_rows=self.limits.max_batch_rows,
            max_wait=self.limits.max_wait_ms / 1000,
            max_queue_rows=self.limits.max_queue_rows,
            max_queue_seconds=self.limits.max_queue_seconds,
            observe=observe,
        )
        return batcher

    def find(self, name: str | None, path: str) -> ServedModel:
        """Return the model of that name, or the first that answers on ``path``.

        Raises:
            UnknownModelError: there is none.
            DataError: the model of that name answers on other paths.
        """
        # Names are looked up and never become paths.
        if name is not None and name not in self.models:
            raise UnknownModelError(
                f"there is no model of that name; there are {', '.join(self.models)}."
            )
        fitting = [m for m in self.models.values() if path in m.answers]
        if name is None and not fitting:
            raise UnknownModelError(f"no model of this server answers on {path}.")
        model = self.models[name] if name is not None else fitting[0]
        if model not in fitting:
            others = ", ".join(model.answers)
            raise DataError(f"'{model.name}' does not answer on {path}, but on {others}.")
        return model

    async def compute(
        self,
        model: ServedModel,
        rows: Sequence[Row],
        request: Request,
        *,
        pooling: str | None = None,
        layer: int | None = None,
    ) -> Sequence[Any]:
        """Return one answer a row, computed together with the rows of other requests."""
        model.check(rows, layer=layer)
        request.scope["state"]["record"].update(model=model.name, rows=len(rows))
        return await self.batchers[model.name].submit(
            rows,
            key=batch_key(rows, pooling=pooling, layer=layer),
            is_gone=lambda: has_gone(request.receive),
        )


class Direct:
    """Calls the endpoints that read texts without FastAPI's layers, which take as long as all else.

    Everything else goes through FastAPI, which describes these endpoints as well.
    """

    def __init__(self, app: FastAPI, endpoints: Mapping[str, Endpoint]) -> None:
        """Answer POST requests to the paths of ``endpoints``; ``app`` answers the others."""
        self.app = app
        self.state = app.state
        self._endpoints = dict(endpoints)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        posted = scope["type"] == "http" and scope["method"] == "POST"
        endpoint = self._endpoints.get(scope["path"]) if posted else None
        if endpoint is None:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await endpoint(request)
        except tuple(STATUSES) as error:
            response = await refused(request, error)
        await response(scope, receive, send)


def has_gone(receive: Receive) -> bool:
    """Return whether the client of a request, whose body is read, went away."""
    message = if_there(receive)
    return message is not None and message["type"] == "http.disconnect"


async def refused(request: Request, error: Exception) -> Response:
    """Return the answer to a request that failed with one of `STATUSES`."""
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    headers = {}
    if isinstance(error, OverloadedError):
        headers["retry-after"] = str(error.retry_after)
    return JSONResponse({"error": str(error)}, status, headers=headers)


def build_app(
    models: Mapping[str, ServedModel],
    *,
    limits: LimitsConfig | None = None,
    key: str | None = None,
    threads: int = 1,
) -> Guard:
    """Return the ASGI application of ``models``.

    Args:
        models: by name; the first answers requests that name none.
        limits: sizes and times; None takes those of `LimitsConfig`.
        key: the API key that requests must bring; None asks for none.
        threads: batches that each model computes at the same time.

    Returns:
        The application; its ``app.state.service`` is the `Service`.
    """
    limits = limits or LimitsConfig()
    metrics = Metrics()
    service = Service(models, limits, metrics, threads=threads)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="nlpapp serve",
        version=__version__,
        lifespan=life,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    for kind in STATUSES:
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(HTTPException, _unknown)
    endpoints = _add_models(app, service)
    _add_state(app, service)
    return Guard(
        Direct(app, endpoints),
        limits=limits,
        key=Key(key) if key is not None else None,
        paths=(*PATHS, *POST_PATHS),
        observe=metrics.request,
    )


async def _unknown(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):  # for the type checker: this is all it is given
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _add_models(app: FastAPI, service: Service) -> dict[str, Endpoint]:
    limits = service.limits

    def described(form: Any) -> dict[str, Any]:
        return {"responses": FAULTS, "openapi_extra": {"requestBody": request_schema(form, limits)}}

    @app.post("/predict", response_model=PredictResponse, **described(PredictRequest))
    async def predict(request: Request) -> Response:
        """Classify or score texts, or pairs of texts."""
        asked = parse(PredictRequest, await request.body(), limits)
        model = service.find(asked.model, "/predict")
        found = await service.compute(model, _rows(asked), request)
        return _answer({"model": model.name, "predictions": found})

    @app.post("/embed", response_model=EmbedResponse, **described(EmbedRequest))
    async def embed(request: Request) -> Response:
        """Turn texts, or pairs of texts, into vectors."""
        asked = parse(EmbedRequest, await request.body(), limits)
        model = service.find(asked.model, "/embed")
        options = {"pooling": asked.pooling, "layer": asked.layer}
        found = await service.compute(model, _rows(asked), request, **options)
        return _answer({"model": model.name, **options, "embeddings": found})

    @app.post("/explain", response_model=ExplainResponse, **described(ExplainRequest))
    async def explain(request: Request) -> Response:
        """Say which words matter: each is left out in turn, and the answers are compared."""
        asked = parse(ExplainRequest, await request.body(), limits)
        model = service.find(asked.model, "/explain")
        row: Row = (asked.text, asked.pair)
        words = _explained_words(row, limits)
        rows = [row, *(without_word(row, word) for word in words)]
        whole, *parts = await service.compute(model, rows, request)
        weights = word_weights(whole, parts)
        shown = [
            {
                **vars(word),
                "word": str(row[word.side])[word.start : word.end],
                "weight": weight,
            }
            for word, weight in zip(words, weights, strict=True)
        ]
        return _answer({"model": model.name, "prediction": whole, "words": shown})

    return {"/predict": predict, "/embed": embed, "/explain": explain}


def _add_state(app: FastAPI, service: Service) -> None:
    unready: dict[int | str, Any] = {503: FAULTS[503]}

    @app.get("/health", response_model=StateResponse)
    async def health() -> Response:
        """Say that the process answers."""
        return _answer({"status": "ok"})

    @app.get("/ready", response_model=StateResponse, responses=unready)
    async def ready() -> Response:
        """Say whether the models are loaded and the server takes requests."""
        if service.ready:
            return _answer({"status": "ready"})
        return JSONResponse({"error": "not ready"}, 503, headers={"retry-after": "1"})

    @app.get("/models", response_model=ModelsResponse, responses={401: FAULTS[401]})
    async def models() -> Response:
        """List the models."""
        return _answer({"models": [model.describe() for model in service.models.values()]})

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        """Give the figures that Prometheus reads."""
        text, kind = service.metrics.page()
        return Response(text, headers={"content-type": kind})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        """Show the page."""
        return HTMLResponse(PAGE, headers={"content-security-policy": CONTENT_SECURITY_POLICY})


def _rows(asked: PredictRequest) -> list[Row]:
    pairs: Sequence[str | None] = asked.pairs or [None] * len(asked.texts)
    return list(zip(asked.texts, pairs, strict=True))


def _explained_words(row: Row, limits: LimitsConfig) -> list[Word]:
    """Return the words to leave out; a text is read once for each, so few of them may be long."""
    words = find_words(row)
    if len(words) >= limits.max_rows:
        raise TooLargeError(f"{len(words)} words; fewer than {limits.max_rows} are explained.")
    characters = (len(words) + 1) * sum(len(text or "") for text in row)
    if characters > limits.max_body_bytes:  # of a request for all these rows without /explain
        raise TooLargeError(
            f"{characters} characters, as the text is read once for each of {len(words)} words; at "
            f"most {limits.max_body_bytes} are read."
        )
    return words


def _answer(content: Any) -> Response:
    return Response(to_json(content), media_type="application/json")
