"""LLM's plugins: their embedding models, as ours.

Layer 3: imports ``errors``, ``models``, ``redaction`` and, when it is asked, LLM's ``llm``.
Importing LLM and its plugins takes from half a second to several, so nothing here is called
before a model is looked for. Works with every LLM from 0.19 on. Our own plugin for LLM, in
``adapters``, is left out: LLM has those models from us.
"""

from __future__ import annotations

import importlib
import inspect
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from typing import Any

from ..errors import EmbedError, MissingDependencyError
from ..models import Batch, EmbeddingModel, Item, Kind, call_embed_batch
from ..redaction import redacted
from .adapted import AdaptedModel
from .foreign_errors import as_provider_error

#: ``origin`` of a model that we have from LLM: it is not handed back to it.
ORIGIN = "llm"
#: Our own plugin for LLM.
_OURS = "datasette_embed.adapters.llm"


@dataclass
class _Turn:
    """What all wrappers of one plugin's object share: whose turn it is, and its own key."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    key: str | None = None


#: ``id`` of an object of a plugin -> a reference that lets go of it, and its turn.
_turns: dict[int, tuple[weakref.ref[Any], _Turn]] = {}
_turns_lock = threading.Lock()


def _turn_of(wrapped: Any) -> _Turn:
    """Return the turn of an object, one however often it is wrapped.

    It may be in several registries, and under the name of an entry besides its own.
    """
    with _turns_lock:
        known = _turns.get(id(wrapped))
        if known is not None:
            turn = known[1]
        else:
            turn = _Turn()
            # It is gone before its id can be another one's.
            with suppress(TypeError):  # an object of a class that allows no such references
                forget = partial(_forget_turn, id(wrapped))
                _turns[id(wrapped)] = weakref.ref(wrapped, forget), turn
    # During a call its key may be that of whoever calls.
    if turn.lock.acquire(blocking=False):
        try:
            turn.key = getattr(wrapped, "key", None)
        finally:
            turn.lock.release()
    return turn


def _forget_turn(number: int, _: Any) -> None:
    _turns.pop(number, None)


# LLM marks its plugins as loaded before it has loaded them, and a second thread would see few.
_loading = threading.RLock()


class PluginModel(AdaptedModel):
    """One embedding model of one of LLM's plugins.

    LLM passes the API key since 0.36 to an ``embed_batch`` that takes one; for any other it
    sets ``key`` on the model during the call (``llm/models.py:_embed_batch``). Such a model is
    called by one thread at a time, so that none meets the key of another, also where several
    of these wrap it. So is one that
    needs no key: it runs on this machine, and was written for a command of one thread.
    """

    origin = ORIGIN

    def __init__(self, wrapped: Any) -> None:
        super().__init__(wrapped)
        self._turn = _turn_of(wrapped)
        # Read once: later it may be another thread's for as long as a call takes.
        self.key = self._turn.key
        self._takes_key = _takes_key(wrapped)

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> Batch | Iterable[Sequence[float]]:
        """Return the plugin's vectors, all of them made.

        Raises:
            ProviderError: whatever the plugin raised, as its cause.
        """
        with self._alone(), self._key_in_place(key):
            try:
                answer = call_embed_batch(self.wrapped, items, kind, key)
                # In here, because it may be a generator, which only now looks at its key.
                return answer if isinstance(answer, Batch) else list(answer)
            except EmbedError:
                raise
            except Exception as error:
                raise as_provider_error(self.model_id, error) from error

    def get_key(self, explicit_key: str | None = None) -> str | None:
        """Return the API key of a call, as every model of ours finds it."""
        return EmbeddingModel.get_key(self, explicit_key)

    def key_for_call(self, explicit_key: str | None) -> str | None:
        """Return the key; as in LLM, a model that needs one is not called without.

        Raises:
            MissingKeyError: it needs one and there is none.
            SourceError: as ``get_key``.
        """
        return EmbeddingModel.key_for_call(self, explicit_key)

    def _alone(self) -> AbstractContextManager[Any]:
        is_service = self._takes_key and self.needs_key is not None
        return nullcontext() if is_service else self._turn.lock

    @contextmanager
    def _key_in_place(self, key: str | None) -> Iterator[None]:
        """Set the key on an older plugin's model; without one it keeps what it has."""
        if self._takes_key or key is None:
            yield
            return
        own = getattr(self.wrapped, "key", None)
        self.wrapped.key = key
        try:
            yield
        finally:
            self.wrapped.key = own


def _takes_key(model: Any) -> bool:
    try:
        parameters = inspect.signature(model.embed_batch).parameters
    except (TypeError, ValueError):  # written in C, without a signature to look at
        return False
    return "key" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


@dataclass
class PluginModels:
    """What LLM's plugins have.

    Attributes:
        models: each model with its aliases; of two with one name LLM would call the first.
        failures: plugin -> why its models cannot be used.
    """

    models: list[tuple[PluginModel, tuple[str, ...]]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> PluginModel | None:
        """Return the model of this id or alias, or None."""
        for model, aliases in self.models:
            if name == model.model_id or name in aliases:
                return model
        return None

    def names(self) -> list[str]:
        """Return the ids, sorted, for messages."""
        return sorted({model.model_id for model, _ in self.models})


def plugin_models() -> PluginModels:
    """Return the embedding models of LLM's plugins, new objects on every call.

    A plugin that cannot be loaded or that raises is listed with its reason, and harms no
    other.

    Raises:
        MissingDependencyError: LLM is not installed.
    """
    with _loading:
        try:
            import llm  # noqa: F401
            from llm import plugins
        except ModuleNotFoundError as error:
            if error.name != "llm":
                raise
            raise MissingDependencyError("llm", "llm") from error
        found = PluginModels()
        _load(plugins, found.failures)
        # As pluggy keeps them, which calls them backwards: in LLM the last one called wins.
        for implementation in plugins.pm.hook.register_embedding_models.get_hookimpls():
            if getattr(implementation.plugin, "__name__", "") != _OURS:
                _collect(implementation, found)
        return found


def _load(plugins: Any, failures: dict[str, str]) -> None:
    """Have LLM load its plugins, and load those it left out because one before them failed."""
    try:
        plugins.load_plugins()
    except Exception as error:  # which one it was is found out below
        failures["LLM's plugins"] = _reason(error)
    manager = plugins.pm
    for name, load in _plugins_to_load(plugins):
        if manager.has_plugin(name) or manager.is_blocked(name):
            continue
        try:
            manager.register(load(), name=name)
        except Exception as error:
            failures.pop("LLM's plugins", None)
            failures[f"LLM's plugin {name}"] = _reason(error)


def _plugins_to_load(plugins: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name of each plugin LLM would load, and what imports it."""
    if plugins.LLM_LOAD_PLUGINS is None:
        entry_points = list(metadata.entry_points(group="llm"))
    else:
        entry_points = []
        for package in filter(str.strip, plugins.LLM_LOAD_PLUGINS.split(",")):
            try:
                found = metadata.distribution(package).entry_points
            except metadata.PackageNotFoundError:
                continue  # LLM has said so
            entry_points += [point for point in found if point.group == "llm"]
    for point in entry_points:
        if point.module != _OURS:
            yield point.name, point.load
    for name in plugins.DEFAULT_PLUGINS:
        yield name, lambda name=name: importlib.import_module(name)


def _collect(implementation: Any, found: PluginModels) -> None:
    """Call one plugin's hook and keep what it registers."""

    def register(model: Any, aliases: Iterable[str] | None = None) -> None:
        found.models.append((PluginModel(model), tuple(aliases or ())))

    try:
        implementation.function(**dict.fromkeys(implementation.argnames, register))
    except Exception as error:
        found.failures[f"LLM's plugin {implementation.plugin_name}"] = _reason(error)


def _reason(error: Exception) -> str:
    return redacted(" ".join(f"{type(error).__name__}: {error}".split()))
