"""Prompts: what usual models want before the texts they embed.

Layer 1: imports nothing of ours. Many models were trained with some words before each text,
one for texts to search for and one for texts to be searched, and answer worse without them,
in silence. What a model's own files say comes before this table, and what its registration
says before both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Prompts:
    """What a model wants before a text; ``""`` is nothing."""

    query: str = ""
    document: str = ""


#: The task that instructed models are given for a search, in the words of their model cards.
_TASK = "Given a web search query, retrieve relevant passages that answer the query"
_PASSAGES = "Represent this sentence for searching relevant passages: "
_CHINESE = "为这个句子生成表示以用于检索相关文章："

#: Pattern of a model's name, without its owner, small -> its prompts. The first that fits counts.
#: Each row names the model card it is from, all below https://huggingface.co/.
_KNOWN: tuple[tuple[str, Prompts], ...] = (
    # intfloat/multilingual-e5-large-instruct; documents have none.
    (r"multilingual-e5-large-instruct", Prompts(f"Instruct: {_TASK}\nQuery: ")),
    # intfloat/e5-mistral-7b-instruct; documents have none.
    (r"e5-mistral-7b-instruct", Prompts(f"Instruct: {_TASK}\nQuery: ")),
    # intfloat/e5-base-v2 and intfloat/multilingual-e5-small ("Each input text should start
    # with query: or passage:").
    (r"(multilingual-)?e5-(small|base|large)(-v2)?", Prompts("query: ", "passage: ")),
    # BAAI/bge-base-en-v1.5, BAAI/bge-large-zh-v1.5: the table "query instruction for retrieval".
    # Ollama's bge-large is the English one.
    (r"bge-(small|base|large)(-en)?(-v1\.5)?", Prompts(_PASSAGES)),
    (r"bge-(small|base|large)-zh(-v1\.5)?", Prompts(_CHINESE)),
    # BAAI/bge-m3 ("no need to add instructions to the queries").
    (r"bge-m3", Prompts()),
    # mixedbread-ai/mxbai-embed-large-v1: for retrieval, queries alone.
    (r"mxbai-embed-large(-v1)?", Prompts(_PASSAGES)),
    # Snowflake/snowflake-arctic-embed-l-v2.0; Ollama calls it snowflake-arctic-embed2.
    (r"snowflake-arctic-embed(-[ml]-v2\.0|2)", Prompts("query: ")),
    # Snowflake/snowflake-arctic-embed-m and -m-v1.5.
    (r"snowflake-arctic-embed(-(xs|s|m|m-long|l)(-v1\.5)?)?", Prompts(_PASSAGES)),
    # WhereIsAI/UAE-Large-V1: for retrieval, queries alone.
    (r"uae-large-v1", Prompts(_PASSAGES)),
    # nomic-ai/nomic-embed-text-v1, -v1.5 and -v2-moe.
    (
        r"nomic-embed-text(-v1|-v1\.5|-v2|-v2-moe)?",
        Prompts("search_query: ", "search_document: "),
    ),
    # nomic-ai/modernbert-embed-base.
    (r"modernbert-embed-(base|large)", Prompts("search_query: ", "search_document: ")),
    # hkunlp/instructor-large.
    (
        r"instructor-(base|large|xl)",
        Prompts(
            "Represent the question for retrieving supporting documents: ",
            "Represent the document for retrieval: ",
        ),
    ),
    # thenlper/gte-base, Alibaba-NLP/gte-base-en-v1.5, gte-multilingual-base: none is named.
    (r"gte-(small|base|large|multilingual-base|modernbert-base)(-en-v1\.5)?", Prompts()),
    # Alibaba-NLP/gte-Qwen2-1.5B-instruct; documents have none.
    (r"gte-qwen(1\.5|2)-[\d.]+b-instruct", Prompts(f"Instruct: {_TASK}\nQuery: ")),
    # Qwen/Qwen3-Embedding-0.6B: no space after "Query:"; documents have none.
    (r"qwen3-embedding(-[\d.]+b)?", Prompts(f"Instruct: {_TASK}\nQuery:")),
    # google/embeddinggemma-300m.
    (
        r"embedding-?gemma(-300m)?(-qat.*)?",
        Prompts("task: search result | query: ", "title: none | text: "),
    ),
    # jinaai/jina-embeddings-v3: its prompts for the tasks retrieval.query and retrieval.passage.
    (
        r"jina-embeddings-v3",
        Prompts(
            "Represent the query for retrieving evidence documents: ",
            "Represent the document for retrieval: ",
        ),
    ),
)
#: What may follow a model's name: how its weights are stored, not which they are.
_STORED = re.compile(r"([-._](gguf|onnx|mlx|bf16|f(p)?(16|32)|i?q\d\w*|int8|[48]bit))+$")


def known_prompts(model: str) -> Prompts | None:
    """Return the prompts of a model by its usual name, whoever hosts it; None if not known.

    The name may be a hub's (``intfloat/e5-base-v2``), a folder, a GGUF file
    (``bge-m3-Q8_0.gguf``), Ollama's (``nomic-embed-text:latest``) or LM Studio's
    (``text-embedding-nomic-embed-text-v1.5``).
    """
    for part in reversed(re.split(r"[/\\:@]", model.rstrip("/\\"))):
        name = _STORED.sub("", part.lower()).removeprefix("text-embedding-")
        for pattern, prompts in _KNOWN:
            if re.fullmatch(pattern, name):
                return prompts
    return None
