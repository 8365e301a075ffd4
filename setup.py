"""Names, extras and entry points of datasette-embed."""

from pathlib import Path

from setuptools import find_packages, setup

SENTENCE_TRANSFORMERS = ["sentence-transformers>=6.0"]
IMAGES = ["pillow>=10.1"]
CLIP = [*SENTENCE_TRANSFORMERS, *IMAGES]
ONNX_EXPORT = [*SENTENCE_TRANSFORMERS, "onnx>=1.17", "onnxscript>=0.7.2"]
LANGCHAIN = ["langchain-core>=0.3"]
LLAMA_INDEX = ["llama-index-core>=0.12"]
LLM = ["llm>=0.19"]
OPENAI = ["tiktoken>=0.8"]
PARQUET = ["pyarrow>=15"]
EXPLORE = ["scikit-learn>=1.4"]
TEST = [
    "pytest>=8.3",
    "pytest-asyncio>=0.24",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "beautifulsoup4>=4.12",
]

setup(
    name="datasette-embed",
    version="0.1",
    description="Search and explore text by meaning in SQLite and Datasette, in plain SQL",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The datasette-embed authors",
    license="Apache-2.0",
    classifiers=[
        "Framework :: Datasette",
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Database",
        "Topic :: Text Processing :: Indexing",
    ],
    packages=find_packages(include=["datasette_embed", "datasette_embed.*"]),
    package_data={
        "datasette_embed": [
            "py.typed",
            "static/*",
            "templates/*.html",
            "providers/minilm/*",
        ]
    },
    include_package_data=True,
    zip_safe=False,
    python_requires=">=3.11",
    install_requires=[
        "datasette>=0.65.5",
        "sqlite-utils>=3.38",
        "pluggy>=1.5",
        "click>=8.1",
        "click-default-group>=1.2",
        "numpy>=1.26",
        # Pyodide has none of these three: numpy answers there, and no bundled model.
        # Before 7.4.5 numkong set the processor to take subnormal numbers for zero.
        "numkong>=7.4.5; sys_platform != 'emscripten'",
        "onnxruntime>=1.20; sys_platform != 'emscripten'",
        "tokenizers>=0.20; sys_platform != 'emscripten'",
        # Earlier ones write the key into their log.
        "openai>=1.55.3",
    ],
    extras_require={
        "clip": CLIP,
        "explore": EXPLORE,
        "images": IMAGES,
        "langchain": LANGCHAIN,
        "llama-index": LLAMA_INDEX,
        "llm": LLM,
        "onnx-export": ONNX_EXPORT,
        "openai": OPENAI,
        "parquet": PARQUET,
        "sentence-transformers": SENTENCE_TRANSFORMERS,
        "test": TEST,
        "test-all": [
            *TEST,
            *CLIP,
            *ONNX_EXPORT,
            *LANGCHAIN,
            *LLAMA_INDEX,
            *LLM,
            *OPENAI,
            *PARQUET,
            *EXPLORE,
            "build>=1.2",
            "mypy>=1.11",
            "playwright>=1.49",
            "ruff>=0.6",
        ],
    },
    entry_points={
        "datasette": ["embed = datasette_embed"],
        "llm": ["datasette-embed = datasette_embed.adapters.llm"],
        "sqlite_utils": ["datasette-embed = datasette_embed.sqlite_utils_plugin"],
    },
)
