"""The table of known prompts: names as people write them, and names that are others."""

from __future__ import annotations

import pytest

from datasette_embed.prompts import Prompts, known_prompts

TASK = "Given a web search query, retrieve relevant passages that answer the query"
PASSAGES = Prompts("Represent this sentence for searching relevant passages: ", "")
E5 = Prompts("query: ", "passage: ")
NOMIC = Prompts("search_query: ", "search_document: ")
GEMMA = Prompts("task: search result | query: ", "title: none | text: ")
INSTRUCT = Prompts(f"Instruct: {TASK}\nQuery: ", "")
QWEN3 = Prompts(f"Instruct: {TASK}\nQuery:", "")
CHINESE = Prompts("为这个句子生成表示以用于检索相关文章：", "")
INSTRUCTOR = Prompts(
    "Represent the question for retrieving supporting documents: ",
    "Represent the document for retrieval: ",
)
JINA_3 = Prompts(
    "Represent the query for retrieving evidence documents: ",
    "Represent the document for retrieval: ",
)


@pytest.mark.parametrize(
    ("model", "prompts"),
    [
        ("intfloat/e5-small", E5),
        ("intfloat/e5-base-v2", E5),
        ("intfloat/multilingual-e5-small", E5),
        ("Xenova/multilingual-e5-large", E5),
        ("/srv/models/multilingual-e5-base/", E5),
        ("C:\\models\\e5-large-v2", E5),
        ("intfloat/multilingual-e5-large-instruct", INSTRUCT),
        ("intfloat/e5-mistral-7b-instruct", INSTRUCT),
        ("BAAI/bge-small-en-v1.5", PASSAGES),
        ("BAAI/bge-base-en", PASSAGES),
        ("bge-large:335m", PASSAGES),
        ("CompendiumLabs/bge-large-en-v1.5-gguf", PASSAGES),
        ("BAAI/bge-large-zh-v1.5", CHINESE),
        ("bge-m3:latest", Prompts()),
        ("mixedbread-ai/mxbai-embed-large-v1", PASSAGES),
        ("mxbai-embed-large", PASSAGES),
        ("Snowflake/snowflake-arctic-embed-xs", PASSAGES),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", PASSAGES),
        ("snowflake-arctic-embed:22m", PASSAGES),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", Prompts("query: ", "")),
        ("snowflake-arctic-embed2:latest", Prompts("query: ", "")),
        ("WhereIsAI/UAE-Large-V1", PASSAGES),
        ("nomic-ai/nomic-embed-text-v1.5", NOMIC),
        ("nomic-embed-text", NOMIC),
        ("text-embedding-nomic-embed-text-v1.5", NOMIC),
        ("nomic-embed-text:latest", NOMIC),
        ("nomic-embed-text:v1.5", NOMIC),
        ("./nomic-embed-text-v1.5.Q8_0.gguf", NOMIC),
        ("nomic-ai/nomic-embed-text-v2-moe", NOMIC),
        ("nomic-ai/modernbert-embed-base", NOMIC),
        ("hkunlp/instructor-xl", INSTRUCTOR),
        ("thenlper/gte-base", Prompts()),
        ("Alibaba-NLP/gte-large-en-v1.5", Prompts()),
        ("Alibaba-NLP/gte-Qwen2-1.5B-instruct", INSTRUCT),
        ("Qwen/Qwen3-Embedding-0.6B", QWEN3),
        ("qwen3-embedding:8b", QWEN3),
        ("Qwen3-Embedding-4B-Q4_K_M.gguf", QWEN3),
        ("hf.co/Qwen/Qwen3-Embedding-0.6B-GGUF:Q8_0", QWEN3),
        ("google/embeddinggemma-300m", GEMMA),
        ("embeddinggemma:latest", GEMMA),
        ("embeddinggemma-300m-qat-q8_0-unquantized", GEMMA),
        ("onnx-community/embeddinggemma-300m-ONNX", GEMMA),
        ("jinaai/jina-embeddings-v3", JINA_3),
    ],
)
def test_known_prompts_name_of_a_hub_ollama_or_a_file(model, prompts):
    """Whoever hosts a model, it wants the same; a model may be known to want nothing."""
    assert known_prompts(model) == prompts


@pytest.mark.parametrize(
    "model",
    [
        "",
        "/",
        "sentence-transformers/all-MiniLM-L6-v2",
        "all-minilm",
        "text-embedding-3-small",
        # Another model of the family, a reranker, a fine-tuned one or a mere likeness.
        "intfloat/e5-v",
        "my-e5-small",
        "e5-small-tuned",
        "BAAI/bge-reranker-large",
        "BAAI/bge-large-zh-noinstruct",
        "BAAI/bge-multilingual-gemma2",
        "Qwen/Qwen3-Reranker-0.6B",
        "Qwen/Qwen3-0.6B",
        "nomic-ai/nomic-embed-code",
        "nomic-ai/nomic-embed-vision-v1.5",
        "dragonkue/snowflake-arctic-embed-l-v2.0-ko",
        "mixedbread-ai/mxbai-rerank-large-v1",
        "hkunlp/instructor-large-tuned",
        "jinaai/jina-embeddings-v2-base-en",
        "google/gemma-3-270m",
        "Alibaba-NLP/gte-reranker-modernbert-base",
    ],
)
def test_known_prompts_other_names_not_known(model):
    """A wrong prompt is worse than none."""
    assert known_prompts(model) is None


def test_known_prompts_no_prompt_lacks_its_last_space():
    """Where text follows a word, a space or a colon is between them."""
    from datasette_embed.prompts import _KNOWN

    for _, prompts in _KNOWN:
        for prompt in (prompts.query, prompts.document):
            assert not prompt or prompt.endswith((": ", "Query:", "："))
