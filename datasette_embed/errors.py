"""Every exception of this package.

Layer 0: imports nothing of ours. An error carries the data it is about and a
message of one line that says what was wrong, what was expected and what to do.
No message holds a secret or the content of a row. Nothing but exception classes
belongs here.
"""

from __future__ import annotations

from collections.abc import Iterable


def _listed(names: Iterable[str]) -> str:
    """Return the names joined for a message, or ``none`` when there are none."""
    return ", ".join(names) or "none"


class EmbedError(Exception):
    """The root of every error this package raises on purpose."""

    _detail: str | None = None
    _in_sql: str | None = None

    @property
    def in_sql(self) -> str:
        """Return the message for whoever wrote the SQL: what to do may be something in SQL."""
        return self._in_sql or str(self)

    @property
    def detail(self) -> str:
        """Return the message for those who run the site or the command.

        It may quote what a model, a server or a file said, and with it content, paths or
        keys: it belongs into a log, a terminal or the file itself, never into a page.
        """
        return self._detail or str(self)

    def __str__(self) -> str:
        # KeyError.__str__ would put quotes around the message of UnknownModelError.
        return str(self.args[0]) if self.args else ""


class ConfigError(EmbedError, ValueError):
    """A setting that cannot be used.

    Attributes:
        key: the setting as it was written.
        reason: what is wrong with it and what is allowed.
    """

    def __init__(self, key: str, reason: str) -> None:
        self.key = key
        self.reason = reason
        super().__init__(f"{key}: {reason}")


class UnknownModelError(EmbedError, KeyError):
    """No model is registered under this name (a KeyError, as in LLM).

    Attributes:
        model_id: the name that was asked for.
        known: the names that are registered.
    """

    def __init__(self, model_id: str, known: Iterable[str] = ()) -> None:
        self.model_id = model_id
        self.known = list(known)
        super().__init__(
            f"Unknown model: {model_id or '(no name)'}. Known models: {_listed(self.known)}"
        )


class ModelRegistrationError(EmbedError, TypeError):
    """A plugin or a config entry tried to register something that is no embedding model."""


class NotFoundError(EmbedError, LookupError):
    """A collection or an entry that was named does not exist."""


class CollectionNotFoundError(NotFoundError):
    """No collection has this name; ``known`` lists those of the file."""

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name = name
        self.known = list(known)
        super().__init__(
            f"Collection '{name}' does not exist. Collections in this file: {_listed(self.known)}"
        )


class EntryNotFoundError(NotFoundError):
    """The collection has no entry with this id."""

    def __init__(self, collection: str, entry_id: str) -> None:
        self.collection = collection
        self.entry_id = entry_id
        super().__init__(f"Collection '{collection}' has no entry with the id '{entry_id}'")


class JobNotFoundError(NotFoundError):
    """The file has no job of this number."""

    def __init__(self, job_id: int) -> None:
        self.job_id = job_id
        super().__init__(f"There is no job {job_id}")


class HiddenCollectionError(EmbedError, PermissionError):
    """The collection exists, but not for whoever is asking."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"You may not view the collection '{name}': that takes the right to see what it was "
            "made from (view-table or execute-sql)"
        )


class SourceError(EmbedError, ValueError):
    """A file, table, column, query or template that cannot be used.

    Attributes:
        source: what was named (a path, a table, a column).
        reason: one sentence saying what is wrong and what to do.
        column: the column it is about, if there is none of this name.
    """

    def __init__(self, source: str, reason: str, column: str | None = None) -> None:
        self.source = source
        self.reason = reason
        self.column = column
        super().__init__(f"{source}: {reason}")


class DatabaseLockedError(SourceError):
    """Another program holds the file's lock; the same works once that has let go."""


class ReadOnlyDatabaseError(SourceError):
    """A database of the server that cannot be written to: immutable, or in memory."""


class InvalidVectorError(EmbedError, ValueError):
    """Bytes or numbers that are no usable vector; ``reason`` says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class DimensionMismatchError(EmbedError, ValueError):
    """Two vectors, or a vector and its collection, differ in dimensions.

    ``model_id`` is that of the model which made the vectors, or should have; None: not known.
    """

    def __init__(self, expected: int, actual: int, model_id: str | None = None) -> None:
        self.expected, self.actual, self.model_id = expected, actual, model_id
        super().__init__(
            f"vectors of {expected} and {actual} dimensions: made by different models? "
            "filter by collection_id"
            if model_id is None
            else f"{model_id}: a vector has {actual} dimensions instead of {expected}. Was it "
            "made by another model, or are the dimensions of the model stated wrongly?"
        )


class ModelMismatchError(EmbedError, ValueError):
    """A collection belongs to another model than the one named."""

    def __init__(self, collection: str, expected: str, actual: str) -> None:
        self.collection = collection
        self.expected = expected
        self.actual = actual
        super().__init__(
            f"Collection '{collection}' was made with {expected}, not {actual}: vectors of two "
            "models cannot be compared. Use its own model, or make another collection"
        )


class OutdatedCollectionError(EmbedError):
    """A collection holds vectors of another version of its model, all or in part.

    Attributes:
        collection: its name.
        reason: what is the matter with it.
    """

    def __init__(self, collection: str, reason: str, *, can_sync: bool = True) -> None:
        self.collection = collection
        self.reason = reason
        remedy = "Run datasette embed sync" if can_sync else "Delete it and embed it again"
        why = f"{reason}: vectors of two versions cannot be compared"
        super().__init__(f"Collection '{collection}' {why}. {remedy}")


class ModelNotAllowedError(EmbedError, PermissionError):
    """The model exists, but not for whoever is asking.

    Attributes:
        model_id: the model.
        reason: one sentence saying why, or what would help.
    """

    def __init__(
        self,
        model_id: str,
        reason: str = "Sign in as somebody who may, or have whoever runs this site open it with "
        "the setting 'allow'",
    ) -> None:
        self.model_id = model_id
        self.reason = reason
        super().__init__(f"You may not use the model {model_id} here. {reason}")


class PaidModelError(ModelNotAllowedError):
    """A watched collection's model may cost money, which nobody has allowed."""

    def __init__(self, model_id: str, collection: str) -> None:
        self.model_id = model_id
        self.collection = collection
        EmbedError.__init__(
            self,
            f"'{collection}' is embedded with {model_id}, which may cost money with every change "
            "of its table: allow that with datasette embed watch --paid",
        )


class MissingKeyError(EmbedError):
    """The model needs an API key and none was found."""

    def __init__(self, model_id: str, env_var: str | None = None, name: str | None = None) -> None:
        self.model_id = model_id
        self.env_var = env_var
        ways = [f"set the environment variable {env_var}"] if env_var else []
        ways += [f"run datasette embed keys set {name}"] if name else []
        ways.append("set one in plugin config")
        super().__init__(f"The model {model_id} needs an API key: {', or '.join(ways)}")


class MissingDependencyError(EmbedError, ImportError):
    """An optional package is absent; the message ends with the command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        what = f"'datasette-embed[{extra}]'" if extra else package
        super().__init__(f"{package} is not installed. Run: pip install {what}")


class ProviderError(EmbedError):
    """A model failed to embed; the original exception is the ``__cause__``.

    Attributes:
        model_id: the model that failed.
        reason: what anybody may read.
        retryable: whether the same call may succeed later.
        retry_after_seconds: how long the provider asked to wait, if it did.
        is_rate_limit: whether it was one call too many, whatever is in it.
    """

    def __init__(
        self,
        model_id: str,
        reason: str,
        *,
        detail: str | None = None,
        retryable: bool = False,
        retry_after_seconds: float | None = None,
        is_rate_limit: bool = False,
    ) -> None:
        self.model_id, self.reason = model_id, reason
        self.retryable, self.is_rate_limit = retryable, is_rate_limit
        self.retry_after_seconds = retry_after_seconds
        self._detail = f"{model_id}: {detail}" if detail else None
        super().__init__(f"{model_id}: {reason}")

    @classmethod
    def from_exception(cls, model_id: str, error: Exception) -> ProviderError:
        """Return the error to raise ``from`` what a model raised, whose text is only a detail."""
        # Of an exception that stands for one with a key in it, the name of that one.
        stood_for = getattr(error, "original_name", None)
        name = stood_for or type(error).__name__
        # What Pillow raises in another's code has no number, as the system's errors have.
        is_pillows = isinstance(error, OSError) and not error.errno
        is_of_image = is_pillows and any(w in str(error) for w in ("image file", "Truncated File"))
        hint = ": the image may be damaged" if is_of_image else ""
        return cls(
            model_id,
            f"the model failed ({name}){hint}. The log says why",
            detail=str(error) if stood_for else f"{name}: {error}",
        )


class CallRefusedError(ProviderError):
    """A service answers no call of this model: its key, its name or its address is wrong.

    No other item and no later attempt fares better until somebody has mended that.
    """


class QuotaExceededError(ProviderError):
    """An account has nothing left; when there is something again, the same call works."""


class EmbedTimeoutError(ProviderError):
    """The model did not answer within the time one embed may take."""

    def __init__(self, model_id: str, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        super().__init__(
            model_id,
            f"no answer within {timeout_seconds:g} seconds, retry in a moment",
            retryable=True,
        )


class BusyError(ProviderError):
    """Too many texts are being embedded at this moment."""

    def __init__(self, model_id: str) -> None:
        super().__init__(model_id, "embedding model is busy, retry in a moment", retryable=True)


class UnreadableTextError(ProviderError):
    """The model cannot read this text: too long, or in no script it knows.

    Attributes:
        is_too_long: whether a shorter one could be read.
    """

    def __init__(self, model_id: str, reason: str, *, is_too_long: bool = False) -> None:
        self.is_too_long = is_too_long
        super().__init__(model_id, f"{reason}. Shorten it" if is_too_long else reason)
        if is_too_long:
            self._in_sql = (
                f"{self} with substr(), or embed the whole table with: datasette embed create"
            )


class TextTooLongError(UnreadableTextError):
    """A visitor's text is longer than this site embeds.

    Attributes:
        limit: the most characters.
        used: how many it has.
    """

    def __init__(self, model_id: str, limit: int, used: int) -> None:
        self.limit = limit
        self.used = used
        super().__init__(
            model_id,
            f"the text is {used:,} characters long, and may have at most {limit:,} here",
            is_too_long=True,
        )


class ImageTooLargeError(UnreadableTextError):
    """A visitor's image is larger than this site embeds."""


class BudgetExceededError(EmbedError):
    """A visitor asked for more than the limit allows.

    Attributes:
        limit: how many are allowed.
        used: how many there would be.
        retry_after_seconds: when it would work; None where waiting does not help.
    """

    def __init__(
        self, what: str, limit: int, used: int, retry_after_seconds: float | None = None
    ) -> None:
        self.limit = limit
        self.used = used
        self.retry_after_seconds = retry_after_seconds
        when = "" if retry_after_seconds is None else f", again in {retry_after_seconds:.0f} s"
        problem = f"{what}: {used} is over the limit of {limit}{when}"
        self._in_sql = f"{problem}. To search a whole table embed it once: datasette embed create"
        remedy = "" if when else f". Send at most {limit:,} texts a request"
        super().__init__(problem + remedy)


class JobStateError(EmbedError):
    """A job cannot do this in the state it is in.

    Attributes:
        job_id: the job.
        status: the state it is in.
        allowed: the states in which this would have worked.
    """

    def __init__(self, job_id: int, status: str, reason: str, allowed: Iterable[str] = ()) -> None:
        self.job_id = job_id
        self.status = status
        self.allowed = list(allowed)
        super().__init__(f"Job {job_id} is {status}: {reason}")
