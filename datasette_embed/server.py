"""Server: what one running Datasette gives the parts of this package.

Layer 9: imports ``access``, ``budgets``, ``compat``, ``errors``, ``executor``, ``image_pixels``,
``models``, ``query_embeddings``, ``redaction``, ``registry``, ``settings`` and ``threads``. It fits
them to one Datasette instance: its config, its pool of SQL threads, its models, and who
asks for them. No SQL function and no page belongs here.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from . import access, budgets, compat
from .budgets import Admission, Visit
from .errors import (
    BusyError,
    ConfigError,
    EmbedError,
    ImageTooLargeError,
    ModelNotAllowedError,
    TextTooLongError,
    UnreadableTextError,
)
from .executor import wrap_executor
from .image_pixels import MOST_PIXELS_FROM_OUTSIDE, has_more_pixels
from .models import EmbeddingModel, Item, Kind, is_blank
from .query_embeddings import GRACE_SECONDS, PROCESS_QUERIES, Limits
from .redaction import forget_frames, formatted, keep_secret, redacted
from .registry import Registry, get_registry
from .settings import KEYS_PREFIX, PLUGIN_NAME, get_settings
from .threads import start_thread

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

logger = logging.getLogger(__name__)

Application = Callable[[Any, Any, Any], Awaitable[None]]
Result = TypeVar("Result")

#: Requests whose texts are embedded at once, for all Datasettes of a process.
WEB_THREADS = 8


def get_limits(datasette: Datasette) -> Limits:
    """Return how long and how many at once a query of this Datasette may embed.

    One SQL thread is always left to queries that need no model.
    """
    threads = int(datasette.setting("num_sql_threads") or 0)
    settings = get_settings(datasette)
    return Limits(
        timeout_seconds=settings.embed_timeout_seconds,
        concurrent=max(1, threads - 1 - _asking.get(datasette, 0)),
        characters=settings.max_text_characters,
        image_bytes=settings.max_image_bytes,
    )


def start(datasette: Datasette) -> None:
    """Check the settings and make errors of SQL functions readable.

    Raises:
        StartupError: plugin config is wrong; it names the key and what is allowed.
    """
    try:
        settings = get_settings(datasette)
    except ConfigError as error:
        raise compat.startup_error(f"Plugin {PLUGIN_NAME}: {error}") from error
    wrap_executor(datasette)
    access.guard_labels(datasette)
    PROCESS_QUERIES.resize(settings.query_cache_bytes)
    for key in settings.keys.values():
        keep_secret(key)
    for line in _mistakes(datasette):
        logger.warning("%s: %s", PLUGIN_NAME, line)


def _mistakes(datasette: Datasette) -> Iterator[str]:
    """Yield what config says that does not do what its author means."""
    settings = get_settings(datasette)
    if settings.allow or settings.keys:
        yield from budgets.unused_names(datasette)
    for name, value in compat.public_plugin_config(datasette, PLUGIN_NAME).items():
        if name != "keys" and not name.startswith(KEYS_PREFIX):
            continue
        inner = value.items() if isinstance(value, dict) else ()
        plain = [f"{name}.{key_name}" for key_name, key in inner if not isinstance(key, dict)]
        for shown in plain if isinstance(value, dict) else [name]:
            if shown.rpartition(".")[2] not in ("$env", "$file"):
                yield (
                    f"the API key in {shown} is shown to everybody at /-/metadata.json. Put it "
                    'into an environment variable, and write {"$env": "NAME_OF_THE_VARIABLE"} in '
                    "its place. Replace a key that was public"
                )


def wrap_application(datasette: Datasette) -> Callable[[Application], Application]:
    """Return an ASGI wrapper that knows each visit, and loads models when a server starts.

    Only a server sends the lifespan message: ``datasette --get``, ``inspect`` and tests
    run the startup hook too, and should not load a model for it.
    """

    def wrap(application: Application) -> Application:
        async def wrapped(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                names = get_settings(datasette).warm_models
                if names:
                    start_thread(warm_models, get_registry(datasette), names, name="embed-warm")
            if scope["type"] != "http":
                await application(scope, receive, send)
                return
            with budgets.visiting():
                await application(scope, receive, send)

        return wrapped

    return wrap


def warm_models(registry: Registry, names: tuple[str, ...]) -> None:
    """Load the models of these names; one that fails is logged and left to its first use."""
    for name in names:
        try:
            registry.get(name).warm()
        except Exception as error:
            reason = redacted(error.detail if isinstance(error, EmbedError) else str(error))
            logger.warning("the model %s could not be loaded at startup: %s", name, reason)
    registry.list_models()  # LLM's plugins, which no page is then the first to wait for


# -- who may use a model ------------------------------------------------------------

# SQL threads that wait for a permission check, by Datasette.
_asking: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_asked = threading.Condition(threading.Lock())


def admit(datasette: Datasette, model: EmbeddingModel) -> Admission:
    """Return the terms on which whoever sent this SQL query may use a model.

    For SQL functions, in whatever thread they run. If nobody knows who asks, because
    Datasette has changed or no request is behind it, only a model that costs nothing, and
    that config does not close, may be used.

    Raises:
        ModelNotAllowedError: they may not.
        BusyError: too many queries wait to be told whether they may.
    """
    visit = budgets.current_visit()
    if visit is None:
        if budgets.is_free(model) and budgets.is_open(datasette, model.model_id, None):
            return budgets.admission_of(datasette, model, None)
        raise ModelNotAllowedError(model.model_id)
    actor, admission = visit.admissions.get(model.model_id, (None, None))
    if model.model_id not in visit.admissions or actor != visit.actor:
        actor = visit.actor
        allowed = _may_use(datasette, model, visit)
        admission = budgets.admission_of(datasette, model, visit) if allowed else None
        visit.admissions[model.model_id] = (actor, admission)
    if admission is None:
        raise ModelNotAllowedError(model.model_id)
    return admission


def _may_use(datasette: Datasette, model: EmbeddingModel, visit: Visit) -> bool:
    """Return whether the actor may use a model, from the thread of a SQL query.

    Nobody is asked where nobody but plugin config has a say, so that no thread waits. Else
    Datasette is, on its event loop. Where that cannot be (the query runs on the loop
    itself, or on the only thread, which Datasette may need for the answer), what config
    cannot tell is a no.

    Raises:
        ModelNotAllowedError: who may use it cannot be known here.
    """
    actor = budgets.rightful(datasette, visit.actor)
    is_open = budgets.is_open(datasette, model.model_id, actor)
    is_restricted = actor is not None and "_r" in actor
    if not is_restricted and not compat.may_others_decide(datasette, access.USE_MODEL):
        return is_open
    threads = int(datasette.setting("num_sql_threads") or 0)
    if threads < 2 or visit.loop is None or not visit.loop.is_running() or _is_on_a_loop():
        if compat.has_config_rule(datasette, access.USE_MODEL):
            raise ModelNotAllowedError(model.model_id, _UNKNOWN.format("the site's permissions"))
        if is_restricted and not budgets.is_free(model):
            raise ModelNotAllowedError(model.model_id, _UNKNOWN.format("the token's restrictions"))
        return is_open
    with _place_to_ask(datasette, model, threads - 1):
        question = access.may_use_model(datasette, visit.actor, model.model_id)
        future = asyncio.run_coroutine_threadsafe(question, visit.loop)
        try:
            return future.result(get_settings(datasette).embed_timeout_seconds)
        except TimeoutError:
            if future.done():
                raise
            future.cancel()
            raise BusyError(model.model_id) from None


_UNKNOWN = (
    "Whether {} let you use it cannot be looked up in SQL with the setting num_sql_threads below 2"
)


def _is_on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _place_to_ask(datasette: Datasette, model: EmbeddingModel, most: int) -> Iterator[None]:
    """Keep a SQL thread free for the answer.

    Raises:
        BusyError: the others wait for answers, or for models, for longer than the grace.
    """
    with _asked:
        has_place = _asked.wait_for(
            lambda: _asking.get(datasette, 0) + PROCESS_QUERIES.waiting < most, GRACE_SECONDS
        )
        if has_place:
            _asking[datasette] = _asking.get(datasette, 0) + 1
    if not has_place:
        raise BusyError(model.model_id)
    try:
        yield
    finally:
        with _asked:
            _asking[datasette] -= 1
            _asked.notify_all()


async def embed_for(
    datasette: Datasette,
    request: Request,
    model: EmbeddingModel,
    items: Sequence[Item],
    *,
    kind: Kind = Kind.QUERY,
) -> list[bytes]:
    """Return the vectors of texts for whoever sent a request, as blobs in the texts' order.

    Everything is checked before the first text is embedded. They are embedded in threads
    of our own, so that neither the event loop nor a SQL query waits.

    Raises:
        ModelNotAllowedError: they may not use the model.
        UnreadableTextError: a text is blank, too long, or the model cannot read it.
        BudgetExceededError: there are too many texts.
        BusyError: too many requests have texts embedded.
        EmbedError: as ``QueryEmbeddings.embed``.
    """
    if not await access.may_use_model(datasette, request.actor, model.model_id):
        raise ModelNotAllowedError(model.model_id)
    visit = budgets.current_visit()
    if visit is None or visit.request is not request:
        visit = Visit(asyncio.get_running_loop(), request)
    is_sent = request.scope.get("method") == "POST"
    admission = budgets.admission_of(datasette, model, visit, is_sent=is_sent)
    settings = get_settings(datasette)
    limits = Limits(
        timeout_seconds=settings.embed_timeout_seconds,
        concurrent=WEB_THREADS,
        characters=settings.max_text_characters,
        image_bytes=settings.max_image_bytes,
        lane="web",
    )
    if not _web_places.acquire(blocking=False):
        raise BusyError(model.model_id)
    try:
        embed = partial(_embed_all, model, list(items), kind, admission, limits)
        return await _in_daemon_thread(embed)
    finally:
        _web_places.release()


#: Requests that may have texts embedded at once.
_web_places = threading.BoundedSemaphore(WEB_THREADS)


async def _in_daemon_thread(work: Callable[[], Result]) -> Result:
    """Return what the work returns, run in a thread that keeps no process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(settle_it: Callable[[Any], None], outcome: Any) -> None:
        if not future.done():  # a visitor who has gone has cancelled it
            settle_it(outcome)

    def run() -> None:
        try:
            outcome = partial(settle, future.set_result, work())
        except BaseException as error:
            if not isinstance(error, EmbedError):
                logger.error("embedding for a request failed:\n%s", formatted(error))
            forget_frames(error)
            outcome = partial(settle, future.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: the server has stopped
            loop.call_soon_threadsafe(outcome)

    start_thread(run, name="embed-web")
    return await future


def _embed_all(
    model: EmbeddingModel, items: list[Item], kind: Kind, admission: Admission, limits: Limits
) -> list[bytes]:
    """Check all the texts, then return their vectors; what is cached costs nothing."""
    for item in items:
        check_content(model, item, admission, limits)
    if admission.check is not None:
        missing = {item for item in items if PROCESS_QUERIES.find(model, item, kind=kind) is None}
        if missing:
            admission.check(len(missing))
    options: dict[str, Any] = {"kind": kind, "key": admission.key, "spend": admission.spend}
    if len(items) == 1:
        return [PROCESS_QUERIES.embed(model, items[0], limits=limits, **options)]
    return PROCESS_QUERIES.embed_many(model, items, limits=limits, **options)


def check_content(model: EmbeddingModel, item: Item, admission: Admission, limits: Limits) -> None:
    """Refuse what the model does not take, and what would only be counted in tokens.

    Raises:
        TextTooLongError: it is longer than it may be.
        ImageTooLargeError: it has more bytes, or by its header more pixels, than it may have.
        UnreadableTextError: it is blank; bytes for a model of texts, or the other way round.
    """
    try:
        model.check_items([item])
    except ValueError as error:
        raise UnreadableTextError(model.model_id, str(error)) from error
    admission.check_length(model, item)
    if isinstance(item, bytes):
        _check_image(model, item, limits.image_bytes)
    elif limits.characters is not None and len(item) > limits.characters:
        raise TextTooLongError(model.model_id, limits.characters, len(item))
    if is_blank(item) if isinstance(item, str) else not item:
        raise UnreadableTextError(model.model_id, "there is nothing to embed in a blank text")


def _check_image(model: EmbeddingModel, image: bytes, most_bytes: int | None) -> None:
    """Refuse an image that is too large for a site, where anybody's may be.

    Raises:
        ImageTooLargeError: it is.
    """
    if most_bytes is None:
        return
    advice = "Make it smaller, or embed a whole column of images with: datasette embed create"
    if len(image) > most_bytes:
        raise ImageTooLargeError(
            model.model_id,
            f"the image has {len(image):,} bytes, and may have at most {most_bytes:,} here "
            f"(max_image_bytes). {advice}",
        )
    if has_more_pixels(image, MOST_PIXELS_FROM_OUTSIDE):
        raise ImageTooLargeError(
            model.model_id,
            f"the image has more than {MOST_PIXELS_FROM_OUTSIDE:,} pixels. {advice}",
        )
