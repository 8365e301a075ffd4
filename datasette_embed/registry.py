"""Registry: names of models -> the models themselves, resolved once.

Layer 5: imports ``errors``, ``hookspecs``, ``llm_files``, ``model_checks``, ``model_entries``,
``models``, ``models_file``, ``providers``, ``redaction`` and ``settings``. Below this module
models are passed as objects. Mistakes of a plugin's author are refused at registration, before
anything is stored. Building a registry loads no weights and no heavy package.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from .errors import (
    ConfigError,
    EmbedError,
    MissingDependencyError,
    ModelRegistrationError,
    UnknownModelError,
)
from .hookspecs import add_hookspecs
from .llm_files import ALIASES_FILE_NAME, read_aliases
from .model_checks import check_model, class_name, described
from .model_entries import ModelEntry
from .models import EmbeddingModel
from .models_file import read_models_file
from .providers.opening import missing_package, open_model
from .redaction import redacted
from .settings import MODELS_FILE_NAME, PLUGIN_NAME, Settings, parse_settings

if TYPE_CHECKING:
    from datasette.app import Datasette

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RegisteredModel:
    """A model and its other names."""

    model: EmbeddingModel
    aliases: tuple[str, ...]

    def matches(self, query: str) -> bool:
        """Say whether its id, class or an alias contains this, in any case of letters."""
        return any(query.lower() in name.lower() for name in (*self.aliases, str(self.model)))


class Registry:
    """The models that may be called, by id and by alias.

    Attributes:
        unavailable: name of a model, plugin or file -> why it cannot be used. A model in
            here may be registered too: it is then named, and refuses with that reason.
        user_aliases: the aliases that were not registered but given by the user of LLM.
    """

    def __init__(self) -> None:
        self.unavailable: dict[str, str] = {}
        self.user_aliases: set[str] = set()
        self._models: dict[str, RegisteredModel] = {}
        self._names: dict[str, EmbeddingModel] = {}
        self._late_source: Callable[[Registry], None] | None = None
        self._is_asking = False

    def register(self, model: Any, aliases: Iterable[str] | None = ()) -> None:
        """Add a model under its id and its aliases.

        Args:
            model: an ``EmbeddingModel``, or an object or class written for LLM.
            aliases: other names for it, matched exactly.

        Raises:
            ModelRegistrationError: it is no embedding model, or one of its names is taken.
                Nothing is registered then.
        """
        model = check_model(model)
        other_names = _check_aliases(model, aliases)
        for name in (model.model_id, *other_names):
            holder = self._names.get(name)
            if holder is not None:
                raise ModelRegistrationError(
                    f"{described(model)}: the name '{name}' already belongs to "
                    f"{described(holder)} ({holder.model_id})"
                )
        self._models[model.model_id] = RegisteredModel(model, other_names)
        for name in (model.model_id, *other_names):
            self._names[name] = model

    def add_user_aliases(self, aliases: Mapping[str, str]) -> None:
        """Add the aliases whose target is registered; those of other models are passed over.

        Args:
            aliases: alias -> id or registered alias. A name that belongs to another model
                keeps its meaning, and the alias is listed in ``unavailable``.
        """
        targets = {
            alias: self._names.get(target)
            for alias, target in aliases.items()
            if target not in self.user_aliases
        }
        for alias, model in targets.items():
            holder = self._names.get(alias)
            if model is None or holder is model or not alias.strip():
                continue
            if holder is not None:
                self.unavailable[f"the alias {alias} in {ALIASES_FILE_NAME}"] = (
                    f"the name belongs to {holder.model_id}"
                )
                continue
            known = self._models[model.model_id]
            self._models[model.model_id] = RegisteredModel(model, (*known.aliases, alias))
            self._names[alias] = model
            self.user_aliases.add(alias)

    def register_if_free(self, model: EmbeddingModel, aliases: Iterable[str]) -> None:
        """Add a model under those of its names that nobody has; without its id not at all.

        Raises:
            ModelRegistrationError: it is no embedding model.
        """
        if model.model_id not in self._names:
            self.register(model, [name for name in aliases if name not in self._names])

    def add_late_source(self, source: Callable[[Registry], None]) -> None:
        """Have somebody asked for more models when a name is not found or all are listed.

        It is asked once; it registers what it has, and raises nothing.
        """
        self._late_source = source

    def _ask_late_source(self) -> None:
        if self._late_source is None:
            return
        with _late_lock:  # whoever comes in between waits for all of the models
            source = self._late_source
            if source is None or self._is_asking:  # asked by what it asked itself
                return
            self._is_asking = True
            try:
                source(self)
            finally:
                self._late_source, self._is_asking = None, False

    def find(self, name: str) -> EmbeddingModel | None:
        """Return the model of this id or alias, or None."""
        if name not in self._names:
            self._ask_late_source()
        return self._names.get(name)

    def get(self, name: str) -> EmbeddingModel:
        """Return the model of this id or alias, matched exactly.

        Raises:
            UnknownModelError: there is none; it lists the known ids and aliases.
        """
        model = self.find(name)
        if model is None:
            raise UnknownModelError(name, self.known_names())
        return model

    def list_models(self) -> list[RegisteredModel]:
        """Return every registered model, sorted by id."""
        self._ask_late_source()
        return self.list_early_models()

    def list_early_models(self) -> list[RegisteredModel]:
        """Return the models that are there without asking the late source, sorted by id."""
        return [self._models[model_id] for model_id in sorted(self._models)]

    def known_names(self) -> list[str]:
        """Return every id with its aliases in brackets, sorted, for messages."""
        return [
            f"{entry.model.model_id} ({', '.join(entry.aliases)})"
            if entry.aliases
            else entry.model.model_id
            for entry in self.list_models()
        ]


def _check_aliases(model: EmbeddingModel, aliases: Any) -> tuple[str, ...]:
    """Return the aliases as a tuple without repeats and without the id itself."""
    if isinstance(aliases, str):
        raise ModelRegistrationError(
            f"{described(model)}: aliases must be a list of names, not the text {aliases!r}"
        )
    names = list(aliases or ())
    for alias in names:
        if not isinstance(alias, str) or not alias.strip():
            raise ModelRegistrationError(
                f"{described(model)}: an alias must be text that is not blank, not {alias!r}"
            )
    return tuple(name for name in dict.fromkeys(names) if name != model.model_id)


def build_registry(settings: Settings) -> Registry:
    """Return a registry of the bundled model, plugins' models, registered ones and OpenAI's.

    OpenAI's models come after them and the aliases that LLM's user has set come last: they
    take no name from anybody. Models of LLM's plugins are added once they are asked for.
    A source that fails is logged and listed in ``unavailable``; the others work.
    """
    registry = Registry()
    _add_bundled(registry)
    _add_from_plugins(registry)
    try:
        in_file = read_models_file()
    except EmbedError as error:
        logger.warning("the models file cannot be used: %s", error)
        registry.unavailable[MODELS_FILE_NAME] = str(error)
        in_file = ()
    for found in in_file:
        if found.entry is not None:
            _add_entry(registry, found.entry)
        else:
            logger.warning("a model of the models file cannot be used: %s", found.reason)
            registry.unavailable[found.name] = found.reason or ""
    for entry in settings.models:
        _add_entry(registry, entry)
    _add_openai(registry)
    try:
        registry.add_user_aliases(read_aliases())
    except EmbedError as error:
        logger.warning("LLM's aliases cannot be used: %s", error)
        registry.unavailable[ALIASES_FILE_NAME] = str(error)
    if importlib.util.find_spec("llm") is not None:
        registry.add_late_source(_add_from_llm)
    return registry


@cache
def _bundled_model() -> tuple[EmbeddingModel, tuple[str, ...]]:
    """Return the one instance of this process, so that its weights are loaded once."""
    from .providers.bundled import ALIASES, bundled_model

    return bundled_model(), ALIASES


def _add_bundled(registry: Registry) -> None:
    try:
        model, aliases = _bundled_model()
    except Exception as error:
        logger.exception("the bundled model cannot be used")
        registry.unavailable["bundled"] = str(error)
        return
    registry.register(model, aliases)
    if importlib.util.find_spec("onnxruntime") is None:
        registry.unavailable[model.model_id] = str(MissingDependencyError("onnxruntime", ""))


def _add_openai(registry: Registry) -> None:
    """Add OpenAI's models, but those whose id is taken, under those aliases that are free."""
    from .providers.openai import openai_models

    for model, aliases in openai_models():
        if registry.find(model.model_id) is not None:
            continue
        registry.register(model, [alias for alias in aliases if registry.find(alias) is None])
        if missing := missing_package(model):
            registry.unavailable.setdefault(model.model_id, str(missing))


def _add_from_plugins(registry: Registry) -> None:
    """Call each plugin's hook by itself, so that one that raises harms no other."""
    from datasette.plugins import pm

    try:
        add_hookspecs()
    except Exception as error:  # an implementation with a wrong signature
        logger.exception("a plugin does not fit the hook register_embedding_models")
        registry.unavailable["register_embedding_models"] = str(error)
    implementations = pm.hook.register_embedding_models.get_hookimpls()
    # Last registered first, as pluggy itself would call them.
    for implementation in reversed(implementations):
        name = _plugin_name(implementation)
        try:
            implementation.function(
                **{argument: registry.register for argument in implementation.argnames}
            )
        except Exception as error:
            logger.exception("models of the plugin %s cannot be used", name)
            registry.unavailable[name] = redacted(
                str(error) if isinstance(error, EmbedError) else f"{type(error).__name__}: {error}"
            )


def _add_from_llm(registry: Registry) -> None:
    """Add the models of LLM's plugins under names that nobody has, and their user's aliases."""
    from .providers.llm import LlmModel
    from .providers.llm_plugins import plugin_models

    try:
        found = plugin_models()
    except Exception as error:
        logger.exception("the models of LLM's plugins cannot be used")
        registry.unavailable["LLM's plugins"] = redacted(f"{type(error).__name__}: {error}")
        return
    for name, reason in found.failures.items():
        logger.warning("%s cannot be used: %s", name, reason)
        registry.unavailable[name] = reason
    for model, aliases in found.models:
        try:
            registry.register_if_free(model, aliases)
        except ModelRegistrationError as error:
            registry.unavailable[str(model.model_id)] = str(error)
    for entry in registry.list_early_models():
        if isinstance(entry.model, LlmModel):
            try:
                entry.model.plugin_model()
            except EmbedError as error:
                registry.unavailable.setdefault(entry.model.model_id, str(error))
    with suppress(EmbedError):  # said already, when the registry was built
        registry.add_user_aliases(read_aliases())


def _plugin_name(implementation: Any) -> str:
    """Return a name a person knows a plugin by: pluggy calls unnamed objects by number."""
    name = getattr(implementation.plugin, "__name__", None)
    return name or class_name(type(implementation.plugin))


def _add_entry(registry: Registry, entry: ModelEntry) -> None:
    try:
        model = open_model(entry)
        registry.register(model, entry.aliases)
    except (ConfigError, ModelRegistrationError) as error:
        logger.warning("the model %s cannot be registered: %s", entry.resolved_id, error)
        # The model that holds the id, the bundled one for example, is no less available.
        is_taken = registry.find(entry.resolved_id) is not None
        name = f"{entry.resolved_id} (registered again)" if is_taken else entry.resolved_id
        registry.unavailable.setdefault(name, str(error))
        return
    if missing := missing_package(model):
        registry.unavailable[entry.resolved_id] = str(missing)


# Reentrant, because LLM's plugins may ask for models themselves.
_late_lock = threading.RLock()
# Reentrant, because a hook implementation may ask for the registry it is being added to.
_lock = threading.RLock()
_process_registry: Registry | None = None
_registries: weakref.WeakKeyDictionary[Any, Registry] = weakref.WeakKeyDictionary()


def get_registry(datasette: Datasette | None = None) -> Registry:
    """Return the registry of a Datasette instance, or of this process outside one.

    Built on the first call and kept. A site whose config is wrong still gets the models
    that need none: its error is raised by the startup hook, where a person sees it.
    """
    global _process_registry
    with _lock:
        found = _process_registry if datasette is None else _registries.get(datasette)
        if found is not None:
            return found
        try:
            registry = build_registry(
                parse_settings(datasette.plugin_config(PLUGIN_NAME) if datasette else None)
            )
        except ConfigError as error:
            registry = build_registry(Settings())
            registry.unavailable[error.key] = str(error)
        if datasette is None:
            _process_registry = registry
        else:
            _registries[datasette] = registry
        return registry


def forget_registries() -> None:
    """Make the next ``get_registry`` read every source again."""
    global _process_registry
    with _lock:
        _process_registry = None
        _registries.clear()
