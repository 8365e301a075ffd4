"""Import paths: an object of another library, made as config or the models file says.

Layer 3: imports ``errors``, ``model_entries``, ``models`` and ``redaction``. A path like
``package.module:Name`` names a class, a function that makes the object, or the object; it is
imported when the model is first used, and no database file can name one. What the object is
and how it is called is said by the providers built on this.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import threading
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from ..errors import (
    CallRefusedError,
    ConfigError,
    EmbedError,
    MissingDependencyError,
    ProviderError,
)
from ..model_entries import last_part
from ..models import Batch, EmbeddingModel, Item, Kind
from ..redaction import keep_secret
from .foreign_errors import as_provider_error

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
#: Parts of the names of arguments and variables whose values are not to be shown.
_SECRET = ("key", "token", "secret", "password")
#: ``{"$env": "NAME"}`` stands for an environment variable, ``{"$key": true}`` for the API key.
ENVIRONMENT, KEY = "$env", "$key"
#: Objects that are kept, where calls bring different keys.
_MOST_KEPT = 8


class ImportedModel(EmbeddingModel):
    """A model of another library by import path; a provider says what it has to be.

    Attributes:
        library: what messages call the library.
        package: what has to be installed.
        extra: the extra of this package that installs it.
    """

    library: ClassVar[str]
    package: ClassVar[str]
    extra: ClassVar[str]

    def __init__(
        self,
        model: str,
        *,
        model_id: str,
        arguments: Mapping[str, Any] | None = None,
        key: str | None = None,
        key_env_var: str | None = None,
        dimensions: int | None = None,
        is_local: bool = False,
        concurrency: int = 1,
    ) -> None:
        """Describe the model without importing it.

        Args:
            model: import path, ``package.module:Name``.
            model_id: the id it is registered under.
            arguments: keyword arguments of the class or function.
            key: name of the API key that ``{"$key": true}`` in the arguments stands for.
            key_env_var: environment variable that may hold it.
            dimensions: length of its vectors, where that is known.
            is_local: whether it runs on this machine.
            concurrency: calls that may be under way at once; others wait.

        Raises:
            ConfigError: this is no import path, or a key is named and not used, or used
                and not named.
        """
        if not _PATH.fullmatch(model):
            raise ConfigError("model", f"must be like package.module:ClassName, not {model!r}")
        self.model = model
        self.model_id = model_id
        self.arguments = dict(arguments or {})
        self.needs_key = key or (model_id if key_env_var else None)
        self.key_env_var = key_env_var
        self.dimensions = dimensions
        self.is_local = is_local
        self.concurrency = concurrency
        self.requires = [(self.package, self.extra)]
        if (package := package_of(model.partition(":")[0])) and "llama" not in package:
            self.requires.append((package.replace("-", "_"), ""))
        self.revision = _revision(model, self.arguments)
        self._uses_key = _holds_key(self.arguments)
        self._check_key(key)
        self._made: dict[str | None, Any] = {}
        self._making = threading.Lock()
        self._turns = threading.BoundedSemaphore(concurrency)

    def _check_key(self, key: str | None) -> None:
        if key and not self._uses_key:
            raise ConfigError(
                "key",
                f'say in arguments where {self.model} takes it: {{"api_key": {{"$key": true}}}}',
            )
        if self._uses_key and self.needs_key is None:
            raise ConfigError("arguments", '{"$key": true} needs key or key_env_var beside it')

    @abstractmethod
    def base_class(self) -> type:
        """Import the library and return the class that the object has to be of."""

    @abstractmethod
    def call(self, target: Any, texts: list[str], kind: Kind) -> Iterable[Sequence[float]]:
        """Return one vector per text from the object."""

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> Batch | Iterable[Sequence[float]]:
        """Return the object's vectors of the texts.

        Raises:
            MissingDependencyError: the library, or what the path begins with, is absent.
            CallRefusedError: the path, the arguments or the key are wrong.
            ProviderError: the object failed.
        """
        target = self.target(key)
        texts = [_readable(str(item)) for item in self.with_prompt(items, kind)]
        with self._turns:
            try:
                return list(self.call(target, texts, kind))
            except EmbedError:
                raise
            except Exception as error:
                raise as_provider_error(self.model_id, error) from error

    def warm(self) -> None:
        """Import the class and make the object."""
        self.target(self.get_key())

    def target(self, key: str | None) -> Any:
        """Return the object, made once; once for each key where it takes one.

        Raises:
            EmbedError: as ``embed_batch``.
        """
        used = key if self._uses_key else None
        with self._making:
            if used not in self._made:
                made = self._make(used)
                if len(self._made) >= _MOST_KEPT:
                    self._made.clear()
                self._made[used] = made
            return self._made[used]

    def _make(self, key: str | None) -> Any:
        base = self._base_class()
        found = self._import()
        arguments = {name: self._filled(value, key, name) for name, value in self.arguments.items()}
        if isinstance(found, base):
            if arguments:
                raise CallRefusedError(
                    self.model_id, f"{self.model} is an object already, which takes no arguments"
                )
            return found
        if not callable(found):
            raise self._wrong_type(found)
        try:
            made = found(**arguments)
        except Exception as error:
            raise self._not_made(error) from error
        if not isinstance(made, base):
            raise self._wrong_type(made)
        return made

    def _base_class(self) -> type:
        try:
            return self.base_class()
        except ModuleNotFoundError as error:
            raise MissingDependencyError(self.package, self.extra) from error

    def _import(self) -> Any:
        """Return what the path names."""
        module, _, attributes = self.model.partition(":")
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise self._not_found(module, error.name or module) from error
        except Exception as error:
            raise CallRefusedError(
                self.model_id,
                f"{module} cannot be imported ({type(error).__name__}). The log says why",
                detail=f"{module} cannot be imported: {_one_line(error)}",
            ) from error
        for name in attributes.split("."):
            if not hasattr(found, name):
                raise CallRefusedError(self.model_id, f"{module} has no {attributes}")
            found = getattr(found, name)
        return found

    def _not_found(self, module: str, missing: str) -> EmbedError:
        """Return the error for a module that is not there: of the path, or one it imports."""
        if not f"{module}.".startswith(f"{missing}."):
            return self._lacks(missing)
        package = package_of(module)
        if package is None or ("." in missing and not missing.startswith("llama_index.")):
            return CallRefusedError(
                self.model_id,
                f"there is no module {missing} to import: install what it is in, or name its "
                "folder in the environment variable PYTHONPATH",
            )
        return MissingDependencyError(package, "")

    def _lacks(self, module: str) -> CallRefusedError:
        return CallRefusedError(
            self.model_id, f"{self.model} needs the module {module}, which is not installed"
        )

    def _filled(self, value: Any, key: str | None, name: str) -> Any:
        """Return an argument with the key and environment variables in their places."""
        if isinstance(value, Mapping) and set(value) == {KEY}:
            return key
        if isinstance(value, Mapping) and set(value) == {ENVIRONMENT}:
            variable = str(value[ENVIRONMENT])
            if variable not in os.environ:
                raise CallRefusedError(
                    self.model_id, f"the environment variable {variable} is not set"
                )
            return _guarded(os.environ[variable], f"{name} {variable}")
        if isinstance(value, Mapping):
            return {inner: self._filled(of, key, inner) for inner, of in value.items()}
        if isinstance(value, list):
            return [self._filled(inner, key, name) for inner in value]
        return _guarded(value, name)

    def _wrong_type(self, found: Any) -> CallRefusedError:
        return CallRefusedError(
            self.model_id,
            f"{self.model} gives an object of the class {type(found).__name__}, "
            f"which is no {self.library}",
        )

    def _not_made(self, error: Exception) -> EmbedError:
        if isinstance(error, EmbedError):
            return error
        if isinstance(error, ModuleNotFoundError) and error.name:
            return self._lacks(error.name)
        found: ProviderError = as_provider_error(self.model_id, error)
        if found.retryable:
            return found
        return CallRefusedError(
            self.model_id,
            f"{self.model} cannot be made with these arguments ({type(error).__name__}). "
            "The log says why",
            detail=f"{self.model} cannot be made with these arguments: {_one_line(error)}",
        )


def package_of(module: str) -> str | None:
    """Return the package on PyPI that a module is in; None where only its author knows.

    A name that was guessed might be a stranger's package. LangChain's and LlamaIndex's
    integrations are named after their modules.
    """
    if module.startswith("llama_index."):
        return "-".join(module.replace("_", "-").split(".")[:3])
    top = module.partition(".")[0]
    return top.replace("_", "-") if top == "langchain" or top.startswith("langchain_") else None


def _holds_key(value: Any) -> bool:
    if isinstance(value, Mapping):
        return KEY in value or any(map(_holds_key, value.values()))
    return isinstance(value, list) and any(map(_holds_key, value))


def _guarded(value: Any, name: str) -> Any:
    """Return a value, remembered as what must not be shown if its name says so."""
    if isinstance(value, str) and any(part in name.lower() for part in _SECRET):
        keep_secret(value)
    return value


def _revision(path: str, arguments: Mapping[str, Any]) -> str:
    """Return what tells two vector spaces apart: the path and the arguments.

    Those that surely leave vectors as they are, such as a key or a time limit, do not count.
    """
    telling = {
        name: _of_environment(value)
        for name, value in arguments.items()
        if not _HARMLESS.search(name)
    }
    text = json.dumps([path, telling], sort_keys=True, default=str)
    return f"{last_part(path)}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


_HARMLESS = re.compile(
    r"key|secret|password|timeout|retry|retries|batch|device|progress|cache|verbose|workers",
    re.IGNORECASE,
)


def _of_environment(value: Any) -> Any:
    """Return an argument with what the environment has in place of the variables' names."""
    if isinstance(value, Mapping):
        if set(value) == {"$env"}:
            return os.environ.get(str(value["$env"]))
        return {name: _of_environment(inner) for name, inner in value.items()}
    return value


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _readable(text: str) -> str:
    """Return the text without lone surrogates, which SQLite hands out and libraries refuse."""
    return text.encode("utf-8", "replace").decode("utf-8")
