"""Budgets: who may call which model, how often, with which key. One decision, for SQL and web.

Layer 7: imports ``compat``, ``errors``, ``models``, ``redaction``, ``registry`` and
``settings``. A request to this server is a ``Visit``, found through a ContextVar. Where
there is none, nobody knows who is asking: then a model answers only if it costs nothing.
Only code that says ``TRUSTED`` is. Nothing here asks Datasette: see ``server``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from .compat import Actor
from .errors import BudgetExceededError, TextTooLongError
from .models import EmbeddingModel, Item
from .redaction import keep_secret
from .registry import get_registry
from .settings import Settings, get_settings
from .settings_values import Allow

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

WINDOW_SECONDS = 60.0
#: Bits of an IPv6 address that its holder cannot choose (RFC 6177).
IPV6_PREFIX = 64
LONGEST_ADDRESS = 100
_WITH_PORT = re.compile(r"(?:\[(?P<six>[^\]]+)\]|(?P<four>[^:\[\]]+))(?::\d+)?")


@dataclass(frozen=True)
class Admission:
    """What whoever asks may do with one model.

    Attributes:
        key: the API key to call it with; None leaves finding one to the model.
        characters: longest text; None for no limit of this visitor's own.
        spend: counts one call, or raises ``BudgetExceededError``; None counts nothing.
        check: raises it if so many calls would be too many, and counts nothing.
    """

    key: str | None = field(default=None, repr=False)
    characters: int | None = None
    spend: Callable[[], None] | None = None
    check: Callable[[int], None] | None = None

    def check_length(self, model: EmbeddingModel, item: Item) -> None:
        """Refuse a text that is longer than a visitor's may be.

        Raises:
            TextTooLongError: it says how long one may be.
        """
        if self.characters is not None and isinstance(item, str) and len(item) > self.characters:
            raise TextTooLongError(model.model_id, self.characters, len(item))


#: What the command line, the engine and scripts are given: whoever runs them pays anyway.
TRUSTED = Admission()


@dataclass(eq=False)
class Visit:
    """One request to this server.

    Attributes:
        loop: the event loop that answers it.
        request: None until Datasette asks who sent it.
        calls: texts that were embedded for it.
        admissions: model id -> the actor it was decided for, and what was decided; None
            is a no.
        is_over: whether it was answered: a task that lives on speaks for nobody.
    """

    loop: asyncio.AbstractEventLoop | None = None
    request: Request | None = None
    calls: int = 0
    admissions: dict[str, tuple[Actor, Admission | None]] = field(default_factory=dict)
    is_over: bool = False

    @property
    def actor(self) -> Actor:
        """Return who sent the request, None for nobody known or not known yet."""
        actor: Actor = self.request.actor if self.request is not None else None
        return actor


_visit: ContextVar[Visit | None] = ContextVar("embed_visit", default=None)


@contextmanager
def visiting() -> Iterator[Visit]:
    """Begin a visit and end it; one inside another, of a request made by the server itself,
    is a visit of its own."""
    visit = Visit(asyncio.get_running_loop())
    token = _visit.set(visit)
    try:
        yield visit
    finally:
        visit.is_over = True
        _visit.reset(token)


def note_request(request: Request) -> None:
    """Keep the request where a SQL function can see who is asking.

    It is the object whose actor Datasette fills in once that is known.
    """
    visit = _visit.get()
    if visit is not None:
        visit.request = request


def current_visit() -> Visit | None:
    """Return the visit this code works for; None where nobody knows of one."""
    visit = _visit.get()
    return None if visit is None or visit.is_over or visit.request is None else visit


def current_request() -> Request | None:
    """Return the request this code works for; None where nobody knows of one."""
    visit = current_visit()
    return visit.request if visit is not None else None


# -- who may ------------------------------------------------------------------------


def is_root(actor: Actor) -> bool:
    """Return whether this is who runs the site."""
    return actor is not None and actor.get("id") == "root"


def rightful(datasette: Datasette, actor: Actor) -> Actor:
    """Return the actor, or nobody for a root user whom this site does not have.

    Datasette 1.0 has one with ``--root`` only; without it the id is one like any other.
    """
    return None if is_root(actor) and not getattr(datasette, "root_enabled", True) else actor


def is_free(model: EmbeddingModel) -> bool:
    """Return whether a call costs nobody anything.

    A model that does not say that it runs here, as those written for LLM, is not taken for
    a free one.
    """
    return model.is_local is True and not model.price_per_million_tokens and model.needs_key is None


def is_open(datasette: Datasette, model_id: str, actor: Actor) -> bool:
    """Return whether plugin config, or without it the model's cost, lets the actor use it.

    The root user may use every model that is not closed to all by ``allow: false``. Where
    Datasette 1.0 runs with ``--default-deny`` nothing else is open but what config opens.
    """
    from datasette.utils import actor_matches_allow

    model = get_registry(datasette).find(model_id)
    if model is None:
        return False
    blocks = _blocks_of(datasette, model)
    if any(block is False for block in blocks):
        return False
    if is_root(actor):
        return True
    if not blocks:
        return is_free(model) and not getattr(datasette, "default_deny", False)
    return all(actor_matches_allow(actor, block) for block in blocks)


def _blocks_of(datasette: Datasette, model: EmbeddingModel) -> list[Allow]:
    """Return what config says of this model, under any of its names."""
    settings, registry = get_settings(datasette), get_registry(datasette)
    blocks = [block for name, block in settings.allow.items() if registry.find(name) is model]
    blocks += [
        entry.allow
        for entry in settings.models
        if entry.allow is not None and entry.resolved_id == model.model_id
    ]
    return blocks


def unused_names(datasette: Datasette) -> list[str]:
    """Return a line about each name in ``allow`` and ``keys`` that fits no model here."""
    settings, registry = get_settings(datasette), get_registry(datasette)
    models = [entry.model for entry in registry.list_models()]
    used = {model.needs_key for model in models} | {model.model_id for model in models}
    known = ", ".join(registry.known_names())
    lines = [
        f"allow: there is no model {name!r}, so nothing is allowed or closed by it. Known: {known}"
        for name in settings.allow
        if registry.find(name) is None
    ]
    return lines + [
        f"keys: no model here needs the key {n!r}" for n in settings.keys if n not in used
    ]


def key_for(datasette: Datasette, model: EmbeddingModel) -> str | None:
    """Return the API key that plugin config has for a model; None leaves it to the model.

    A key under the model's id counts before one under the name of what it needs.
    """
    keys = get_settings(datasette).keys
    key = keys.get(model.model_id) or (keys.get(model.needs_key) if model.needs_key else None)
    keep_secret(key)
    return key


# -- how often ----------------------------------------------------------------------


class Budget:
    """The calls of the last minute: of each visitor, and of all.

    Nothing is kept of older ones, so it holds no more than ``calls_per_minute_total`` calls.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.clock = clock
        self._lock = threading.Lock()
        self._calls: deque[tuple[float, str]] = deque()
        self._of_visitor: Counter[str] = Counter()

    def spend(self, visit: Visit | None, visitor: str, settings: Settings) -> None:
        """Count one call.

        Raises:
            BudgetExceededError: it would be one too many; it is not counted.
        """
        with self._lock:
            refusal = self._find_refusal(visit, visitor, settings, 1)
            if refusal is None:
                self._calls.append((self.clock(), visitor))
                self._of_visitor[visitor] += 1
                if visit is not None:
                    visit.calls += 1
        if refusal is not None:
            raise BudgetExceededError(*refusal)

    def check(self, visit: Visit | None, visitor: str, settings: Settings, count: int) -> None:
        """Refuse so many calls before the first of them is made; count nothing.

        Raises:
            BudgetExceededError: they would be too many.
        """
        with self._lock:
            refusal = self._find_refusal(visit, visitor, settings, count)
        if refusal is not None:
            raise BudgetExceededError(*refusal)

    def _find_refusal(
        self, visit: Visit | None, visitor: str, settings: Settings, count: int
    ) -> tuple[str, int, int, float | None] | None:
        """Return what is exceeded, the limit, the count, and when to try again, if ever."""
        now = self.clock()
        while self._calls and self._calls[0][0] <= now - WINDOW_SECONDS:
            _, past = self._calls.popleft()
            self._of_visitor[past] -= 1
            if not self._of_visitor[past]:
                del self._of_visitor[past]
        used = (visit.calls if visit is not None else 0) + count
        if used > settings.calls_per_request:
            return "texts to embed for one request", settings.calls_per_request, used, None
        used = self._of_visitor[visitor] + count if visitor in self._of_visitor else count
        if used > settings.calls_per_minute:
            first = next((at for at, who in self._calls if who == visitor), now)
            limit = settings.calls_per_minute
            wait = None if count > limit else max(1.0, first + WINDOW_SECONDS - now)
            return "texts embedded for you in a minute", limit, used, wait
        used = len(self._calls) + count
        if used > settings.calls_per_minute_total:
            first = self._calls[0][0] if self._calls else now
            limit = settings.calls_per_minute_total
            wait = None if count > limit else max(1.0, first + WINDOW_SECONDS - now)
            return "texts embedded for all visitors in a minute", limit, used, wait
        return None


_budgets: weakref.WeakKeyDictionary[Any, Budget] = weakref.WeakKeyDictionary()
_budgets_lock = threading.Lock()


def budget_of(datasette: Datasette) -> Budget:
    """Return the one budget of a Datasette."""
    with _budgets_lock:
        found = _budgets.get(datasette)
        if found is None:
            found = _budgets[datasette] = Budget()
        return found


def admission_of(
    datasette: Datasette, model: EmbeddingModel, visit: Visit | None, *, is_sent: bool = False
) -> Admission:
    """Return the terms for who may use a model: key, length, budget.

    The root user has no limits for a model that is free, nor for texts that were sent. For
    any other call a link is enough that somebody else wrote, or a view in their file.

    Args:
        is_sent: whether the texts came in the body of a request to the API.
    """
    key = key_for(datasette, model)
    is_roots = visit is not None and is_root(rightful(datasette, visit.actor))
    if is_roots and (is_sent or is_free(model)):
        return Admission(key)
    settings = get_settings(datasette)
    visitor = visitor_of(visit, settings.visitor_header)
    budget = budget_of(datasette)
    return Admission(
        key,
        settings.query_characters,
        partial(budget.spend, visit, visitor, settings),
        partial(budget.check, visit, visitor, settings),
    )


def visitor_of(visit: Visit | None, header: str | None) -> str:
    """Return a name for who asks: their id, else their address, else one for all others.

    Args:
        visit: their request.
        header: the request header in which a trusted proxy puts the address. Of several
            addresses in it the last is the one that proxy saw; the others are hearsay.
    """
    if visit is None or visit.request is None:
        return "unknown"
    actor = visit.actor
    if actor is not None and actor.get("id") is not None:
        return f"actor {actor['id']}"
    client = visit.request.scope.get("client")
    address = str(client[0]) if client else ""
    if header:
        given = visit.request.headers.get(header.lower(), "").split(",")[-1].strip()
        address = _without_port(given[:LONGEST_ADDRESS]) or address
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return f"address {address}"
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return f"address {ipaddress.ip_network((parsed, IPV6_PREFIX), strict=False)}"
    return f"address {getattr(parsed, 'ipv4_mapped', None) or parsed}"


def _without_port(address: str) -> str:
    """Return an address as some proxies write it (``1.2.3.4:5001``, ``[2001:db8::1]:443``)
    without brackets and port, which differs from one request to the next."""
    found = _WITH_PORT.fullmatch(address)
    return (found["six"] or found["four"]) if found else address
