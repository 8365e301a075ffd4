"""Presets: servers and services that speak OpenAI's embeddings protocol, by name.

Layer 0: imports nothing of ours. Each says where it listens, what its key is called and how
it departs from the protocol, with the page of its own documentation that says so and the day
it was read. How the protocol is spoken is said in ``providers.openai``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """One server or service.

    Attributes:
        base_url: what ``/embeddings`` is appended to; None where everybody has another one.
        source: the page of its documentation that says so.
        read_on: the day that page was read, ISO 8601.
        key: name of its API key, as in ``datasette embed keys set NAME``; None: needs none.
        key_env_var: the environment variable its own documentation names for the key.
        encoding_format: ``base64`` where it is known to send that, else ``float``.
        batch_size: most texts of one request; None where nothing is said.
        max_batch_tokens: most tokens of one request; None where nothing is said.
        query_parameters: sent with texts to search for, beside what the protocol has.
        document_parameters: sent with texts to be searched.
    """

    base_url: str | None
    source: str
    read_on: str
    key: str | None = None
    key_env_var: str | None = None
    encoding_format: str = "float"
    batch_size: int | None = None
    max_batch_tokens: int | None = None
    query_parameters: Mapping[str, Any] = field(default_factory=dict)
    document_parameters: Mapping[str, Any] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    "ollama": Preset(
        base_url="http://localhost:11434/v1",
        source="https://docs.ollama.com/api/openai-compatibility",
        read_on="2026-11-28",
    ),
}
