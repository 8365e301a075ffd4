"""OpenAI's embeddings protocol: ``/-/embed/v1/embeddings`` and ``/-/embed/v1/models``.

Layer 11: imports ``access``, ``compat``, ``errors``, ``models``, ``registry``, ``server`` and
``vectors``. Programs written for OpenAI's API use the models of this site by another base
URL. Requests, answers and errors have the shapes of the official client, openai 3.52.0:
``types/embedding_create_params.py``, ``types/create_embedding_response.py``, ``_exceptions.py``.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from datasette import Forbidden, Response

from .. import access, compat, server, vectors
from ..errors import ModelNotAllowedError, TextTooLongError, UnknownModelError, UnreadableTextError
from ..model_calls import read_items
from ..models import EmbeddingModel, Kind, is_blank
from ..registry import get_registry
from .http import RequestError, describe_error, json_view, read_json, require_method
from .lookup import find_model

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

#: Most texts of one request: "any array must be 2048 dimensions or less", in the types above.
MOST_TEXTS = 2_048
_FIELDS = {"input", "model", "encoding_format", "dimensions", "user", "kind", "input_type"}
_TOKENS = (
    "input holds tokens, which belong to the tokenizer of another model: send texts. "
    "In LangChain that is OpenAIEmbeddings(check_embedding_ctx_length=False)"
)
#: The ``type`` of an error by its status; any other is an ``api_error``.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


class FieldError(RequestError):
    """A field of the request that cannot be used; ``param`` is its name."""

    def __init__(self, param: str, message: str) -> None:
        self.param = param
        super().__init__(message)


@dataclass(frozen=True)
class Asked:
    """What a request for embeddings asks for."""

    texts: list[str]
    model: str
    kind: Kind
    is_base64: bool
    dimensions: int | None


View = Callable[..., Awaitable[Any]]


def openai_view(view: View) -> View:
    """Return a view that answers in JSON, errors in OpenAI's shape."""

    # No functools.wraps: Datasette reads the names of the arguments from the signature.
    async def answered(request: Request, datasette: Datasette) -> Response:
        headers: dict[str, str] = {}
        try:
            if not await compat.may_view_instance(datasette, request.actor):
                raise Forbidden("You may not view this site")
            body, status = await view(request, datasette), 200
        except Exception as error:
            status, body, headers = _refusal(request, datasette, error)
        text = body if isinstance(body, str) else json.dumps(body)
        return Response(
            text, status=status, headers=headers, content_type="application/json; charset=utf-8"
        )

    functools.update_wrapper(answered, view, assigned=("__module__", "__name__", "__doc__"))
    return json_view(answered)


def _refusal(
    request: Request, datasette: Datasette, error: Exception
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return the status, the body and the headers of the answer to a failed request."""
    status, message, headers = describe_error(request, datasette, error)
    if status == 403 and request.actor is None:
        # Whoever shows no key is asked for one.
        status, message = 401, f"{message}. Send an API token of this site as the API key"
        headers["WWW-Authenticate"] = "Bearer"
    param, code = getattr(error, "param", None), None
    if status == 401:
        code = "invalid_api_key"
    elif isinstance(error, UnknownModelError):
        param, code = "model", "model_not_found"
    elif isinstance(error, ModelNotAllowedError):
        param, code = "model", "model_not_allowed"
    elif isinstance(error, TextTooLongError | UnreadableTextError):
        param = "input"
    elif status == 429:
        code = "rate_limit_exceeded"
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return status, body, headers


@openai_view
async def embeddings_view(request: Request, datasette: Datasette) -> str:
    """Return the vectors of texts: ``POST /-/embed/v1/embeddings``."""
    require_method(request, "POST")
    asked = read_asked(await read_json(request, datasette))
    model = await find_model(datasette, asked.model)
    # First of all: what the model can do is for those who may use it.
    if not await access.may_use_model(datasette, request.actor, model.model_id):
        raise ModelNotAllowedError(model.model_id)
    if asked.dimensions is not None and asked.dimensions != model.dimensions:
        raise FieldError(
            "dimensions",
            f"{model.model_id} makes vectors of {model.dimensions} dimensions, not "
            f"{asked.dimensions}: leave the field out, or name a model that makes shorter ones",
        )
    blobs = await server.embed_for(datasette, request, model, asked.texts, kind=asked.kind)
    # Tokens are counted, and long lists written, without stopping the server meanwhile.
    return await asyncio.to_thread(_answer, model, asked, blobs)


def _answer(model: EmbeddingModel, asked: Asked, blobs: Sequence[bytes]) -> str:
    tokens = sum(reading.tokens for reading in read_items(model, asked.texts))
    written = [
        base64.b64encode(blob).decode("ascii") if asked.is_base64 else vectors.decode(blob).tolist()
        for blob in blobs
    ]
    return json.dumps(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": embedding}
                for index, embedding in enumerate(written)
            ],
            "model": model.model_id,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


def read_asked(body: dict[str, Any]) -> Asked:
    """Return what the body of a request asks for.

    Raises:
        FieldError: naming the field and what it must be.
    """
    for name in body:
        if name not in _FIELDS:
            raise FieldError(name, f"Unrecognized request argument supplied: {name}")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise FieldError("model", "model must be the id of a model, as /-/embed/v1/models lists")
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise FieldError("encoding_format", "encoding_format must be float or base64")
    dimensions = body.get("dimensions")
    if dimensions is not None and type(dimensions) is not int:
        raise FieldError("dimensions", "dimensions must be a whole number")
    return Asked(_texts(body.get("input")), model, _kind(body), encoding == "base64", dimensions)


def _texts(given: Any) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise FieldError("input", "input must be a text, or a list of texts that is not empty")
    if len(texts) > MOST_TEXTS:
        raise FieldError(
            "input", f"input holds {len(texts):,} texts, {MOST_TEXTS:,} is the most of one request"
        )
    for position, text in enumerate(texts):
        if isinstance(text, int | list) and not isinstance(text, bool):
            raise FieldError("input", _TOKENS)
        if not isinstance(text, str):
            raise FieldError("input", f"input[{position}] must be a text")
        if is_blank(text):
            raise FieldError("input", f"input[{position}] is blank: there is nothing to embed")
    return texts


def _kind(body: dict[str, Any]) -> Kind:
    """Return the side of a search the texts are on, which OpenAI's protocol does not know."""
    for name in ("kind", "input_type"):
        if (given := body.get(name)) is not None:
            try:
                return Kind(given)
            except ValueError:
                raise FieldError(name, f"{name} must be document or query") from None
    return Kind.DOCUMENT


@openai_view
async def models_view(request: Request, datasette: Datasette) -> dict[str, Any]:
    """Return the models the caller may use: ``GET /-/embed/v1/models``."""
    require_method(request, "GET", "HEAD")
    registry = await asyncio.to_thread(get_registry, datasette)
    usable = [
        _described(entry.model)
        for entry in registry.list_models()
        if entry.model.supports_text
        and entry.model.model_id not in registry.unavailable
        and await access.may_use_model(datasette, request.actor, entry.model.model_id)
    ]
    return {"object": "list", "data": usable}


@openai_view
async def model_view(request: Request, datasette: Datasette) -> dict[str, Any]:
    """Return one model the caller may use: ``GET /-/embed/v1/models/ID``."""
    require_method(request, "GET", "HEAD")
    found = await find_model(datasette, unquote(request.url_vars["model"]))
    if not await access.may_use_model(datasette, request.actor, found.model_id):
        raise ModelNotAllowedError(found.model_id)
    return _described(found)


def _described(model: EmbeddingModel) -> dict[str, Any]:
    return {"id": model.model_id, "object": "model", "created": 0, "owned_by": "datasette-embed"}
