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
        encoding_format: ``base64`` where it is known to send that, else ``float``; ``none`` where
            it refuses a request that names one.
        batch_size: most texts of one request; None where nothing is said.
        max_batch_tokens: most tokens of one request; None where nothing is said.
        query_parameters: sent with texts to search for, beside what the protocol has.
        document_parameters: sent with texts to be searched.
        dimensions_parameter: what it calls the length of the vectors to ask for.
        query_model: end of the name of a model for documents, and what stands there instead
            in the name of its twin for queries; None where one model is for both.
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
    dimensions_parameter: str = "dimensions"
    query_model: tuple[str, str] | None = None


#: On the user's own machine, without a key unless one is set there.
_LOCAL = {
    "llama-cpp": Preset(
        base_url="http://localhost:8080/v1",
        source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
        read_on="2026-11-28",
    ),
    "lm-studio": Preset(
        base_url="http://localhost:1234/v1",
        source="https://lmstudio.ai/docs/developer/openai-compat/embeddings",
        read_on="2026-11-28",
    ),
    "ollama": Preset(
        base_url="http://localhost:11434/v1",
        source="https://docs.ollama.com/api/openai-compatibility",
        read_on="2026-11-28",
    ),
    "tei": Preset(  # text-embeddings-inference, in its container as in its README
        base_url="http://localhost:8080/v1",
        source="https://huggingface.github.io/text-embeddings-inference",
        read_on="2026-11-28",
        encoding_format="base64",
        batch_size=32,  # --max-client-batch-size, as it is if nobody says otherwise
    ),
    "vllm": Preset(
        base_url="http://localhost:8000/v1",
        source="https://docs.vllm.ai/en/stable/api/vllm/entrypoints/pooling/embed/serving/",
        read_on="2026-11-28",
        encoding_format="base64",
    ),
}

_SERVICES = {
    "azure": Preset(  # the model is the name of a deployment
        base_url=None,  # https://NAME.openai.azure.com/openai/v1/
        source="https://learn.microsoft.com/azure/foundry/reference/rest/embeddings-create-embedding",
        read_on="2026-11-28",
        key="azure",
        key_env_var="AZURE_OPENAI_API_KEY",
        encoding_format="base64",
        batch_size=2048,
        max_batch_tokens=300_000,
    ),
    "cohere": Preset(  # its compatibility API, which knows no input_type and no dimensions
        base_url="https://api.cohere.ai/compatibility/v1",
        source="https://docs.cohere.com/docs/compatibility-api",
        read_on="2026-11-28",
        key="cohere",
        key_env_var="COHERE_API_KEY",
        encoding_format="base64",
        batch_size=96,
    ),
    "dashscope": Preset(  # Singapore; Beijing is https://dashscope.aliyuncs.com/…
        base_url="https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        source="https://www.alibabacloud.com/help/en/model-studio/text-embedding-synchronous-api",
        read_on="2026-11-28",
        key="dashscope",
        key_env_var="DASHSCOPE_API_KEY",
        batch_size=10,
    ),
    "deepinfra": Preset(
        base_url="https://api.deepinfra.com/v1/openai",
        source="https://deepinfra.com/docs/openai_api",
        read_on="2026-11-28",
        key="deepinfra",
        key_env_var="DEEPINFRA_TOKEN",
        encoding_format="base64",
    ),
    "fireworks": Preset(
        base_url="https://api.fireworks.ai/inference/v1",
        source="https://docs.fireworks.ai/guides/querying-embeddings-models",
        read_on="2026-11-28",
        key="fireworks",
        key_env_var="FIREWORKS_API_KEY",
        batch_size=2048,
    ),
    "gemini": Preset(
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        source="https://ai.google.dev/gemini-api/docs/openai",
        read_on="2026-11-28",
        key="gemini",
        key_env_var="GEMINI_API_KEY",
    ),
    # It refuses fields that it does not know: https://github.com/BerriAI/litellm/issues/6337
    "jina": Preset(
        base_url="https://api.jina.ai/v1",
        source="https://api.jina.ai/openapi.json",
        read_on="2026-11-29",
        key="jina",
        key_env_var="JINA_API_KEY",
        encoding_format="none",
        query_parameters={"task": "retrieval.query"},
        document_parameters={"task": "retrieval.passage"},
    ),
    "mistral": Preset(
        base_url="https://api.mistral.ai/v1",
        source="https://docs.mistral.ai/api/endpoint/embeddings",
        read_on="2026-11-28",
        key="mistral",
        key_env_var="MISTRAL_API_KEY",
        dimensions_parameter="output_dimension",
    ),
    "openrouter": Preset(
        base_url="https://openrouter.ai/api/v1",
        source="https://openrouter.ai/docs/api/api-reference/embeddings/create-embeddings",
        read_on="2026-11-28",
        key="openrouter",
        key_env_var="OPENROUTER_API_KEY",
    ),
    "together": Preset(
        base_url="https://api.together.ai/v1",
        source="https://docs.together.ai/docs/inference/openai-compatibility",
        read_on="2026-11-28",
        key="together",
        key_env_var="TOGETHER_API_KEY",
    ),
    "upstage": Preset(
        base_url="https://api.upstage.ai/v1/solar",
        source="https://developers.upstage.ai/docs/apis/embeddings",
        read_on="2026-11-28",
        key="upstage",
        key_env_var="UPSTAGE_API_KEY",
        query_model=("-passage", "-query"),
    ),
    "voyage": Preset(  # encoding_format is base64 or nothing there
        base_url="https://api.voyageai.com/v1",
        source="https://docs.voyageai.com/reference/embeddings-api",
        read_on="2026-11-28",
        key="voyage",
        key_env_var="VOYAGE_API_KEY",
        encoding_format="base64",
        batch_size=1000,
        max_batch_tokens=120_000,  # of its largest models; the others take more
        query_parameters={"input_type": "query"},
        document_parameters={"input_type": "document"},
        dimensions_parameter="output_dimension",
    ),
}

PRESETS: dict[str, Preset] = {**_LOCAL, **_SERVICES}
