"""Model checks: what is refused when a model is registered, before it fails far away.

Layer 4: imports ``errors``, ``models`` and ``providers.adapted``. The messages are for the
author of a plugin: they name the class, what is wrong and what was expected.
"""

from __future__ import annotations

import inspect
from typing import Any

from .errors import ModelRegistrationError
from .models import EmbeddingModel, Kind
from .providers.adapted import AdaptedModel


def check_model(model: Any) -> EmbeddingModel:
    """Return the object as an EmbeddingModel, wrapped if it was written for LLM.

    Raises:
        ModelRegistrationError: it names the class, what is wrong and what was expected.
    """
    if isinstance(model, type):
        try:
            model = model()
        except Exception as error:
            raise ModelRegistrationError(
                f"{class_name(model)} cannot be made without arguments ({error}): "
                "register an instance"
            ) from error
    model_id = getattr(model, "model_id", None)
    if not isinstance(model_id, str) or not model_id.strip():
        raise ModelRegistrationError(
            f"{described(model)}: model_id must be text that is not blank, not {model_id!r}"
        )
    if not callable(getattr(model, "embed_batch", None)):
        raise ModelRegistrationError(
            f"{described(model)} ({model_id}) has no method embed_batch(items)"
        )
    _check_signature(model)
    checked = model if isinstance(model, EmbeddingModel) else AdaptedModel(model)
    _check_attributes(checked)
    return checked


def _check_signature(model: Any) -> None:
    """Refuse an ``embed_batch`` that cannot be called as it will be."""
    try:
        signature = inspect.signature(model.embed_batch)
    except (TypeError, ValueError):
        return  # written in C, without a signature to look at
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    options = {"kind": Kind.DOCUMENT, "key": None}
    accepted = {
        name: value for name, value in options.items() if takes_any or name in signature.parameters
    }
    try:
        signature.bind([], **accepted)
    except TypeError as error:
        raise ModelRegistrationError(
            f"{described(model)}: embed_batch{signature} cannot be called as "
            f"embed_batch(items, *, kind, key): {error}"
        ) from error


def _check_attributes(model: EmbeddingModel) -> None:
    """Refuse attributes that would fail later and far away."""
    for name in ("dimensions", "batch_size", "max_tokens", "max_batch_tokens", "concurrency"):
        value = getattr(model, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ModelRegistrationError(
                f"{described(model)}: {name} must be a whole number of 1 or more, "
                f"or None, not {value!r}"
            )
    if model.metric not in ("cosine", "dot"):
        raise ModelRegistrationError(
            f"{described(model)}: metric must be cosine or dot, not {model.metric!r}"
        )
    if not model.supports_text and not model.supports_binary:
        raise ModelRegistrationError(
            f"{described(model)}: supports_text and supports_binary are both false"
        )


def described(model: Any) -> str:
    """Return what a message calls a model: its class."""
    return class_name(type(model.wrapped if isinstance(model, AdaptedModel) else model))


def class_name(of: type) -> str:
    """Return the name of a class with its module."""
    return f"{of.__module__}.{of.__qualname__}"
