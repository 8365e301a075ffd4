"""The README is the manual: what it shows is run, and what exists is in it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from datasette.app import Datasette
from datasette.version import __version__ as VERSION
from itsdangerous import BadSignature

import datasette_embed
from datasette_embed.cli import embed
from datasette_embed.job_rows import LEASE_VARIABLE
from datasette_embed.model_entries import COMMON_OPTIONS, OPTIONS, parse_model_entries
from datasette_embed.presets import PRESETS
from datasette_embed.providers.opening import open_model
from datasette_embed.registry import build_registry
from datasette_embed.settings import SETTINGS, parse_settings
from tests import storage
from tests.fakes import vector_of

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PARAMETERS = {"q": "undo my last commit", "id": "sqlite_sqlite-tg.md"}
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
#: Providers whose entries name what is to be imported.
IMPORTED = ("langchain", "llama-index")
#: Lines whose numbers are times or estimates, which differ from machine to machine.
MEASURED = ("Estimate:", "Embedded ")


def blocks(language: str) -> list[str]:
    """Return the contents of the README's code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def assert_like(actual: str, expected: str) -> None:
    """Compare lines: words exactly, scores to 0.02, counts exactly, times not at all."""
    actual_lines, expected_lines = actual.strip().splitlines(), expected.strip().splitlines()
    assert len(actual_lines) == len(expected_lines), actual
    for got, wanted in zip(actual_lines, expected_lines, strict=True):
        assert NUMBER.sub("#", got).split() == NUMBER.sub("#", wanted).split()
        if wanted.startswith(MEASURED):
            continue
        for number, wanted_number in zip(NUMBER.findall(got), NUMBER.findall(wanted), strict=True):
            if "." in wanted_number:
                assert float(number) == pytest.approx(float(wanted_number), abs=0.02)
            else:
                assert number == wanted_number


@pytest.fixture(scope="module")
def readme_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run every shell example of the README in order, in a folder of its own."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DATASETTE_EMBED_USER_PATH": str(folder / "user"),
        "LLM_USER_PATH": str(folder / "llm"),
        "LLM_EMBEDDING_MODEL": "",
        "LLM_EMBEDDINGS_DB": "",
        "COLUMNS": "100",
    }
    for block in blocks("console"):
        for command, _, expected in (
            part.partition("\n") for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        ):
            done = subprocess.run(
                command,
                shell=True,
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}"
            assert_like(done.stdout, expected)
    return folder


def test_shell_examples_run_and_print_what_the_readme_says(readme_folder: Path) -> None:
    """Every console example was run, in order, and printed what it shows."""
    conn = sqlite3.connect(readme_folder / "til.db")
    assert conn.execute("select count(*) from embeddings").fetchone() == (577,)
    conn.close()


def test_sql_examples_return_the_rows_shown(readme_folder: Path) -> None:
    """Each SQL example returns the table printed below it."""
    examples = re.findall(
        r"^```sql\n(.*?)^```\n\n```text\n(.*?)^```$", README, re.MULTILINE | re.DOTALL
    )
    assert len(examples) == len(blocks("sql")) == 5
    conn = sqlite3.connect(readme_folder / "til.db")
    datasette_embed.register(conn)
    for sql, expected in examples:
        names = set(re.findall(r":(\w+)", sql))
        cursor = conn.execute(sql, {name: PARAMETERS[name] for name in names})
        rows = [[column[0] for column in cursor.description], *cursor]
        assert_like("\n".join("  ".join(map(str, row)) for row in rows), expected)
    conn.close()


def test_python_examples_run(readme_folder: Path) -> None:
    """Each Python example runs in the folder of the shell examples."""
    examples = blocks("python")
    assert len(examples) >= 4
    for example in examples:
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=readme_folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_every_sql_function_is_documented() -> None:
    """Every function that is registered stands in the README, and no other."""
    conn = sqlite3.connect(":memory:")
    datasette_embed.register(conn)
    rows = conn.execute("select distinct name from pragma_function_list")
    registered = {name for (name,) in rows if name.startswith("llm_embed")}
    conn.close()
    assert set(re.findall(r"`(llm_embed\w*)\(", README)) == registered


def commands(group: click.Group, path: str = "") -> list[tuple[str, click.Command]]:
    """Return every command below a group with its full name."""
    found: list[tuple[str, click.Command]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((f"{path}{name}", command))
        if isinstance(command, click.Group):
            found += commands(command, f"{path}{name} ")
    return found


def test_every_command_and_option_is_documented() -> None:
    """Every command, and every option of it, stands in the README."""
    text = README.partition("## Commands")[2].partition("## Models")[0]
    for name, command in commands(embed):
        assert name in text, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert any(f"{option}" in text for option in parameter.opts), (name, parameter.opts)


def test_every_setting_is_documented_with_its_default() -> None:
    """The table of settings in the README is the one in the code."""
    text = README.partition("## Settings")[2].partition("## What is stored")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))
    assert set(rows) == set(SETTINGS)
    for name, (default, _) in SETTINGS.items():
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert float(rows[name]) == default, name


def test_every_option_of_every_provider_is_documented() -> None:
    """The table in the README is the one in the code; presets take the options of openai."""
    text = README.partition("What KEY may be")[2].partition("`models show")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([a-z, -]+) \|", text, re.MULTILINE))
    assert {name for name, providers in rows.items() if providers == "all"} == set(COMMON_OPTIONS)
    for provider, options in OPTIONS.items():
        named = "openai" if provider in PRESETS else provider
        documented = {name for name, of in rows.items() if named in of.split(", ")}
        assert documented == set(options), provider


def test_models_in_the_readmes_configuration_can_be_described() -> None:
    """Each is an entry of a provider, with options it takes."""
    found = [yaml.safe_load(block) for block in blocks("yaml")]
    sites = [site["plugins"]["datasette-embed"] for site in found if "plugins" in site]
    entries = [entry for site in sites for entry in parse_model_entries(site.get("models", []))]
    opened = [open_model(entry) for entry in entries if entry.provider in IMPORTED]
    assert [(model.model_id, model.needs_key) for model in opened] == [
        ("cohere", "cohere"),
        ("bge", None),
    ]


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    """What the README tells a newcomer to run is what CI runs."""
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    newcomer = next(block for block in blocks("sh") if "pytest" in block)
    assert "pip install -e '.[test]'" in newcomer and "python -m pytest -n auto" in newcomer
    assert "pip\" install -e '.[test]'" in script and 'python" -m pytest -q -n auto\n' in script


def test_fidelity_in_the_readme_is_the_one_measured() -> None:
    """The number is that of the NOTICE, measured by benchmarks/fidelity.py."""
    notice = (ROOT / "datasette_embed/providers/minilm/NOTICE").read_text("utf-8")
    overlap = re.search(r"top-10 neighbour overlap +([\d.]+)", notice)
    assert overlap is not None
    assert f"{overlap[1]} of each ten nearest are the original's" in README


def test_every_preset_is_in_the_readme_with_its_key() -> None:
    """The table of servers is that of the code."""
    rows = dict(re.findall(r"^\| `([\w-]+)` \| [^|]* \| (?:`(\w+)`)? *\| ", README, re.MULTILINE))
    assert {name: rows.get(name) for name in PRESETS} == {
        name: preset.key_env_var or "" for name, preset in PRESETS.items()
    }
    for preset in PRESETS.values():
        if preset.key is None:
            assert f"`{preset.base_url}`" in README


class OwnProtocol(BaseHTTPRequestHandler):
    """The imagined service of the README, which is busy at first and has one key."""

    requests: list[dict[str, object]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.requests.append({**body, "key": self.headers["x-key"]})
        answers = {1: (429, {"error": "slow down"})}
        texts = body["passages"]
        good = (200, {"vectors": [vector_of(text) for text in texts], "spent": len(texts)})
        status, answer = answers.get(len(self.requests), good)
        if self.headers["x-key"] != "right-key":
            status, answer = 401, {"error": "who are you?"}
        self.send_response(status)
        self.send_header("retry-after", "0")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        """Write nothing to stderr."""


def test_service_of_its_own_protocol_works_as_the_readme_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under 80 lines, with its key, retries, errors, tokens and a whole job."""
    (example,) = [block for block in blocks("python") if "class Service" in block]
    assert len(example.splitlines()) < 80
    names: dict[str, Any] = {}
    exec(example, names)
    monkeypatch.setenv("SERVICE_API_KEY", "right-key")
    handler = type("Handler", (OwnProtocol,), {"requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        names["Service"].url = f"http://127.0.0.1:{server.server_port}/"
        found: dict[str, Any] = {}
        names["register_embedding_models"](lambda model, aliases: found.update(model=model))
        rows = [(1, "a dog"), (2, "a cat")]
        path = storage.make_docs(tmp_path / "docs.db", rows)
        assert storage.run_job(path, found["model"]).counts.tokens == 2
        assert storage.stored(path) == storage.expected(rows)
        found["model"].embed("a dog", kind="query")
        assert [request["purpose"] for request in handler.requests] == [
            "document",
            "document",
            "query",
        ]
        with pytest.raises(datasette_embed.CallRefusedError, match="the key is not taken"):
            found["model"].embed("a dog", key="wrong-key")
        server.shutdown()


def test_models_in_the_readmes_configuration_are_registered() -> None:
    """Each example of ``models`` is what a site takes."""
    found = set()
    for block in blocks("yaml"):
        value = yaml.safe_load(block)
        config = value.get("plugins", {}).get("datasette-embed", {}) if type(value) is dict else {}
        if "models" in config:
            registry = build_registry(parse_settings(config))
            found |= {entry.model.model_id for entry in registry.list_models()}
    assert {
        "text-embedding-3-large-512",
        "openai/our-model",
        "ollama/nomic-embed-text",
        "sentence-transformers/intfloat/multilingual-e5-small",
    } <= found


def test_environment_variable_in_the_readme_is_a_setting() -> None:
    """What is not configured is taken from there."""
    for name in re.findall(r"`DATASETTE_EMBED_(\w+)`", README):
        # The lease is one of the file, not of a site.
        assert name.lower() in SETTINGS or name == LEASE_VARIABLE.removeprefix("DATASETTE_EMBED_")


@pytest.mark.asyncio
async def test_tables_of_the_file_are_hidden_as_the_readme_says(tmp_path: Path) -> None:
    """On both versions of Datasette; the owner's own table stays in the list."""
    (text,) = [block for block in blocks("yaml") if "hidden" in block]
    path = tmp_path / "til.db"
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.executescript("create table til (id integer primary key, body text)")
        conn.execute("insert into til values (1, 'a dog')")
        conn.commit()
    datasette_embed.create(path, "til")
    options = "metadata" if VERSION.startswith("0.") else "config"
    site = Datasette([str(path)], **{options: yaml.safe_load(text)})
    await site.invoke_startup()
    tables = (await site.client.get("/til.json")).json()["tables"]
    assert [table["name"] for table in tables if not table["hidden"]] == ["til"]
    assert {"embeddings", "collections", "_embed_jobs"} <= {table["name"] for table in tables}


@pytest.mark.parametrize(("secret", "is_known"), [(None, False), ("s", True)])
def test_signature_outlives_the_server_with_a_secret_alone(
    secret: str | None, is_known: bool
) -> None:
    """So a restart ends the sign-in, unless the secret is given."""
    first, second = (Datasette([], secret=secret) for _ in range(2))
    signed = first.sign({"a": {"id": "root"}}, "actor")
    with contextlib.nullcontext() if is_known else pytest.raises(BadSignature):
        assert second.unsign(signed, "actor") == {"a": {"id": "root"}}
