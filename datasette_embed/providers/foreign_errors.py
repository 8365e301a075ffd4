"""Foreign errors: what another library raised, as an error of ours.

Layer 3: imports ``errors``. The libraries that LangChain, LlamaIndex and the plugins of LLM
are built on have hundreds of exception classes; what they have in common is how they are
named. What is not recognised by its name is a plain failure, not to be tried again.
"""

from __future__ import annotations

from ..errors import CallRefusedError, ProviderError

#: Parts of names of exceptions after which the same call may succeed: those of openai, httpx,
#: requests, cohere, google-api-core and botocore.
_PASSING = (
    "Timeout",
    "ConnectError",
    "ConnectionError",
    "ServiceUnavailable",
    "InternalServerError",
)
#: Those of them that say that there were too many calls.
_TOO_MANY = ("RateLimit", "TooManyRequests")
#: Parts of names of exceptions that every further call would end with.
_LASTING = ("AuthenticationError", "Unauthorized", "Unauthenticated", "PermissionDenied")


def as_provider_error(model_id: str, error: Exception) -> ProviderError:
    """Return the error to raise ``from`` what a model raised; its text is only a detail."""
    names = [base.__name__ for base in type(error).__mro__]
    if any(part in name for name in names for part in _LASTING):
        return CallRefusedError.from_exception(model_id, error)
    found = ProviderError.from_exception(model_id, error)
    found.is_rate_limit = any(part in name for name in names for part in _TOO_MANY)
    found.retryable = isinstance(error, TimeoutError | ConnectionError) or any(
        part in name for name in names for part in (*_PASSING, *_TOO_MANY)
    )
    return found
