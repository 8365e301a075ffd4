"""OpenAIModel: OpenAI's embedding models, and those of every server with its protocol.

Layer 3: imports ``errors``, ``models``, ``presets`` and ``prompts``. The official client, which
is imported when it is first used. Numbers of OpenAI's own models are from
https://platform.openai.com/docs/api-reference/embeddings and
https://platform.openai.com/docs/pricing, as the client's own text repeats the first
(openai 3.57, ``resources/embeddings.py``, 2026-11-28). Presets of other servers are in
``presets``, what they may answer in ``openai_answers``.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from ..errors import CallRefusedError, ConfigError, MissingDependencyError
from ..models import Batch, EmbeddingModel, Item, Kind, caller_retries
from ..presets import PRESETS, Preset
from ..prompts import known_prompts
from . import openai_tokens
from .openai_answers import Bounds, Call, bounds, read_answer, read_bounded, translate

logger = logging.getLogger(__name__)

OPENAI_URL = "https://api.openai.com/v1"
#: Largest answer: so many bytes, and for each text as many as its numbers may take in JSON.
ANSWER_BYTES = 1_000_000
NUMBER_BYTES = 32
MOST_DIMENSIONS = 16_384
#: Attempts of the client after the first, where the caller does not try again itself.
RETRIES = 2
#: Sent in place of a key to a server that needs none.
NO_KEY = "none"
#: What a request to another server than OpenAI's may have: the client adds headers that name
#: an organisation, and those of an environment variable, which may hold a key.
_HEADERS = (
    *("accept", "accept-encoding", "authorization", "connection"),
    *("content-length", "content-type", "host", "user-agent"),
    "x-stainless-raw-response",  # the client looks for it when the answer is there
)


@dataclass(frozen=True)
class KnownModel:
    """One of OpenAI's models: length of its vectors, US dollars a million tokens, aliases."""

    dimensions: int
    price: float
    aliases: tuple[str, ...]


KNOWN = {
    "text-embedding-ada-002": KnownModel(1536, 0.10, ("ada", "ada-002")),
    "text-embedding-3-small": KnownModel(1536, 0.02, ("3-small",)),
    "text-embedding-3-large": KnownModel(3072, 0.13, ("3-large",)),
}
#: Shortened ones that LLM has an id for (llm 0.36, ``default_plugins/openai_models.py``).
_SHORTENED = (
    ("text-embedding-3-small", 512),
    ("text-embedding-3-large", 256),
    ("text-embedding-3-large", 1024),
)


class OpenAIModel(EmbeddingModel):
    """A model that is called by OpenAI's protocol.

    Without ``preset`` and ``base_url`` the server is OpenAI's. Any other gets no key but one
    that the options or its preset name.
    """

    requires = (("openai", ""),)
    _has_said_cut = False

    def __init__(
        self,
        model: str,
        *,
        model_id: str,
        preset: str | None = None,
        base_url: str | None = None,
        dimensions: int | None = None,
        key: str | None = None,
        key_env_var: str | None = None,
        encoding_format: str | None = None,
        query_parameters: Mapping[str, Any] | None = None,
        document_parameters: Mapping[str, Any] | None = None,
        max_batch_tokens: int | None = None,
        concurrency: int | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        """Describe the model, which the server calls ``model``, without calling it.

        Args:
            preset: name of one of ``presets.PRESETS``.
            base_url: what ``/embeddings`` is appended to.
            dimensions: length of the vectors to ask for; None for the model's own.
            key: name of the API key, as in ``datasette embed keys set NAME``.
            key_env_var: environment variable that may hold the key.
            encoding_format: ``base64`` or ``float``, or ``none``: the request does not say.
            query_parameters: sent beside the protocol's with texts to search for.
            document_parameters: the same, with texts to be searched.
            max_batch_tokens: most tokens of one request.
            concurrency: requests that may be under way at once.
            timeout_seconds: longest wait for an answer to begin, and then for its end.

        Raises:
            ConfigError: there is no address, or it is none.
        """
        self.model = model
        self.model_id = model_id
        self.is_openai = preset is None and base_url is None
        self.timeout_seconds = timeout_seconds
        self.asked_dimensions = self.dimensions = dimensions
        self._take(PRESETS[preset] if preset else None, base_url, encoding_format)
        for kind, given in ((Kind.QUERY, query_parameters), (Kind.DOCUMENT, document_parameters)):
            if given is not None:
                self.parameters[kind] = dict(given)
        self.max_batch_tokens = max_batch_tokens or self.max_batch_tokens
        self._set_key(key or self.needs_key, key_env_var or self.key_env_var)
        self._place(concurrency)
        self.revision = self._find_revision(preset, base_url)
        self._lock = threading.Lock()
        self._client: Any = None

    def _take(
        self, preset: Preset | None, base_url: str | None, encoding_format: str | None
    ) -> None:
        """Set what the preset says, or OpenAI's own service, where no option says otherwise.

        Raises:
            ConfigError: there is no address, or it is none.
        """
        if self.is_openai:
            self._describe_openai()
            preset = Preset(OPENAI_URL, source="", read_on="", encoding_format="base64")
        preset = preset or Preset(None, source="", read_on="")
        self.base_url = _checked(base_url or preset.base_url)
        self.encoding_format = encoding_format or preset.encoding_format
        self.batch_size = self.batch_size or preset.batch_size
        self.max_batch_tokens = self.max_batch_tokens or preset.max_batch_tokens
        self.needs_key, self.key_env_var = preset.key, preset.key_env_var
        self._query_model = self.model
        if preset.query_model and self.model.endswith(preset.query_model[0]):
            end, other_end = preset.query_model
            self._query_model = self.model.removesuffix(end) + other_end
        self.parameters = {
            Kind.QUERY: dict(preset.query_parameters),
            Kind.DOCUMENT: dict(preset.document_parameters),
        }
        self._dimensions_parameter = preset.dimensions_parameter

    def _describe_openai(self) -> None:
        """Set the limits of OpenAI's own service."""
        self.batch_size = 2048
        self.max_batch_tokens = 300_000
        self.max_tokens = 8191
        if known := KNOWN.get(self.model):
            self.dimensions = self.dimensions or known.dimensions
            self.price_per_million_tokens = known.price

    def _place(self, concurrency: int | None) -> None:
        """Set what depends on whose machine answers: prompts too, which OpenAI's models lack."""
        is_here = _is_loopback(self.base_url)
        self.is_local = is_here and self.needs_key is None
        self.concurrency = concurrency or (2 if is_here else 8)
        if self.is_openai or any(self.parameters.values()):
            return
        if prompts := known_prompts(self.model):
            self.query_prompt, self.document_prompt = prompts.query, prompts.document

    def _set_key(self, name: str | None, variable: str | None) -> None:
        if self.is_openai:
            name, variable = name or "openai", variable or (None if name else "OPENAI_API_KEY")
        elif variable and not name:
            name = variable.removesuffix("_API_KEY").lower()
        self.needs_key, self.key_env_var = name, variable

    def _find_revision(self, preset: str | None, base_url: str | None) -> str | None:
        """Return what besides the id makes the vector space, with no address in it.

        The address itself may be nobody's business, and the file that has this be published;
        but one name may stand for other weights at another address.
        """
        parts = [self.model]
        if self.asked_dimensions:
            parts.append(f"{self.asked_dimensions}d")
        if base_url is not None:
            address = urlsplit(self.base_url)
            parts.append(_digest(f"{address.hostname}:{address.port}{address.path.rstrip('/')}"))
        elif preset:
            parts.append(preset)
        if parameters := self.parameters[Kind.DOCUMENT]:
            parts.append(_digest(json.dumps(parameters, sort_keys=True)))
        # The ids that OpenAI's models have everywhere say it all.
        dimensions = f"-{self.asked_dimensions}" if self.asked_dimensions else ""
        is_plain = self.is_openai and self.model_id == f"{self.model}{dimensions}"
        return None if is_plain and not parameters else ":".join(parts)

    @property
    def counts_exactly(self) -> bool:  # type: ignore[override]
        """Return whether the vocabulary of the model is here; the first call loads it."""
        return self._find_encoding() is not None

    def _find_encoding(self) -> Any | None:
        is_known = self.is_openai and self.model in KNOWN
        return openai_tokens.find_encoding() if is_known else None

    def count_tokens(self, text: str) -> int:
        """Return the length of the text as it is sent, with the longer of the two prompts."""
        prompt = max(self.query_prompt or "", self.document_prompt or "", key=len)
        return self._count(f"{prompt}{_readable(text)}")

    def _count(self, text: str) -> int:
        encoding = self._find_encoding()
        if encoding is None:
            return super().count_tokens(text)
        return openai_tokens.count(text, encoding)

    def warm(self) -> None:
        """Import the client; the server is not asked."""
        self._find_client()

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> Batch | Iterable[Sequence[float]]:
        """Return the vectors of the items, asked for in one request.

        Raises:
            CallRefusedError: the key, the model or the address is wrong.
            QuotaExceededError: the account has nothing left.
            UnreadableTextError: the one text is too long for the server.
            ProviderError: the server failed, or answered with something else.
        """
        host = urlsplit(self.base_url).netloc
        call = Call(self.model_id, self.model, self._key_names(), len(items), host)
        headers = self._headers(key)
        client = self._find_client()
        texts = [self._fitted(str(item)) for item in self.with_prompt(items, kind)]
        body_bytes = NUMBER_BYTES * (self.dimensions or MOST_DIMENSIONS) * len(items)
        token = bounds.set(Bounds(ANSWER_BYTES + body_bytes, self.timeout_seconds))
        try:
            answer = client.with_options(
                max_retries=0 if caller_retries.get() else RETRIES
            ).embeddings.with_raw_response.create(
                model=self._query_model if kind is Kind.QUERY else self.model,
                input=texts,
                encoding_format=self.encoding_format,
                extra_body=self._extra_body(kind),
                extra_headers=headers,
            )
        except Exception as error:
            raise translate(error, call) from error
        finally:
            bounds.reset(token)
        vectors, tokens = read_answer(answer.http_response.content, call)
        return Batch(vectors, tokens)

    def _extra_body(self, kind: Kind) -> dict[str, Any]:
        """Return what a request says beside the texts, the model and the format."""
        body = dict(self.parameters[kind])
        if self.asked_dimensions is not None:
            body = {self._dimensions_parameter: self.asked_dimensions, **body}
        if self.encoding_format == "none":
            # Not to name one makes the client name base64; this takes it out again.
            body["encoding_format"] = import_module("openai._types").Omit()
        return body

    def _headers(self, key: str | None) -> dict[str, str]:
        """Return the headers of one call: its key never is the client's, which all share.

        Raises:
            CallRefusedError: the key has characters that no header can have.
        """
        if key and not (key.isascii() and key.isprintable()):
            reason = f"the key has characters that no key has: set another {self._key_names()}"
            raise CallRefusedError(self.model_id, reason)
        return {"Authorization": f"Bearer {key or NO_KEY}", "Accept-Encoding": "identity"}

    def _key_names(self) -> str | None:
        """Return how the key is set, for the end of a sentence."""
        ways = [f"in {self.key_env_var}"] if self.key_env_var else []
        ways += [f"with datasette embed keys set {self.needs_key}"] if self.needs_key else []
        return " or ".join(ways) or None

    def _fitted(self, text: str) -> str:
        """Return the text as it is sent: valid Unicode, and no longer than the model reads.

        Where tokens are estimated, the engine tries again with less of a text that the server
        refuses. For any other caller so little is sent that it fits, and that is logged.
        """
        text = _readable(text)
        limit = self.max_tokens
        # No token is shorter than a byte.
        if limit is None or len(text.encode()) <= limit:
            return text
        if (encoding := self._find_encoding()) is not None:
            is_long = openai_tokens.count(text, encoding) > limit
            return openai_tokens.cut(text, limit, encoding) if is_long else text
        if caller_retries.get():
            return openai_tokens.cut_bytes(text, limit * openai_tokens.BYTES_PER_TOKEN)
        fitted = openai_tokens.cut_bytes(text, limit * openai_tokens.SAFE_BYTES_PER_TOKEN)
        if len(fitted) < len(text) and not self._has_said_cut:
            self._has_said_cut = True
            logger.warning(
                "%s: a text was cut to %d characters, for its tokens cannot be counted here: "
                "pip install 'datasette-embed[openai]' (said once)",
                self.model_id,
                len(fitted),
            )
        return fitted

    def _find_client(self) -> Any:
        """Return the one client, whose connections all calls share."""
        with self._lock:
            if self._client is None:
                try:
                    import openai
                except ImportError as error:
                    raise MissingDependencyError("openai", "") from error
                hooks: dict[str, list[Any]] = {"response": [read_bounded]}
                if not self.is_openai:
                    hooks["request"] = [_keep_headers]
                http_client = openai.DefaultHttpxClient(
                    follow_redirects=False, timeout=self.timeout_seconds, event_hooks=hooks
                )
                weakref.finalize(self, http_client.close)
                self._client = openai.OpenAI(
                    api_key=NO_KEY,
                    base_url=self.base_url,
                    timeout=self.timeout_seconds,
                    http_client=http_client,
                )
            return self._client


def openai_models() -> list[tuple[OpenAIModel, tuple[str, ...]]]:
    """Return OpenAI's models under LLM's ids, each with its aliases."""
    found = [(OpenAIModel(model, model_id=model), known.aliases) for model, known in KNOWN.items()]
    for model, dimensions in _SHORTENED:
        model_id = f"{model}-{dimensions}"
        alias = model_id.removeprefix("text-embedding-")
        found.append((OpenAIModel(model, model_id=model_id, dimensions=dimensions), (alias,)))
    return found


def _keep_headers(request: Any) -> None:
    """Take what is for OpenAI alone out of a request; a hook of the client."""
    for name in [name for name in request.headers if name not in _HEADERS]:
        del request.headers[name]


def _checked(base_url: str | None) -> str:
    """Return an address that requests can be sent to; it is not quoted, for it may hold a key.

    Raises:
        ConfigError: there is none, it is no address of HTTP, or more than that.
    """
    if base_url is None:
        raise ConfigError(
            "base_url",
            "is missing: give the address of the server, like https://NAME.example.com/v1",
        )
    try:
        parts = urlsplit(base_url)
        is_usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ConfigError("base_url", "must be an address like http://localhost:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError("base_url", "may hold no password, no ? and no #; name a key instead")
    return base_url


def _is_loopback(base_url: str) -> bool:
    """Return whether an address is this machine's own by what it says."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:8]


def _readable(text: str) -> str:
    """Return the text without lone surrogates, which no request can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
