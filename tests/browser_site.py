"""A site for a real browser: its files, its models, its server, and what watches a page.

``python -m tests.browser_site FOLDER serve ...`` is ``datasette serve ...`` with the models of
this module. ``FOLDER/model.json`` says how they behave, and is read before every call: a test
slows a job down, holds it in the middle or lets it go by writing that file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datasette import hookimpl
from datasette.app import Datasette

from datasette_embed.database import sqlite3
from datasette_embed.errors import ProviderError
from datasette_embed.models import EmbeddingModel, Item, Kind
from tests.colours import ColourModel

REPOSITORY = Path(__file__).parent.parent
AXE = Path(__file__).parent / "data" / "axe" / "axe.min.js"
SECRET = "not a secret at all"
ROOT = {"id": "root"}
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 900}
#: Milliseconds that anything on a page may take: two cores may be shared by much else.
PATIENCE = 20_000

# -- models ------------------------------------------------------------------------


class WordsModel(EmbeddingModel):
    """Texts that share words are near each other. Slow, held or failing when told to.

    ``model.json``: ``seconds`` is how long each call takes, ``holds_after`` how many
    documents are embedded until calls wait for the file to say otherwise.
    """

    # None of the words of these tests share a number of the vector.
    dimensions = 334
    batch_size = 8
    max_tokens = 128
    is_local = True
    counts_exactly = True

    def __init__(self, model_id: str, folder: Path) -> None:
        self.model_id = model_id
        self._folder = folder
        self._documents = 0

    def embed_batch(
        self, items: list[Item], *, kind: Kind = Kind.DOCUMENT, key: str | None = None
    ) -> list[list[float]]:
        if kind is Kind.DOCUMENT:
            while self._documents >= self._told().get("holds_after", 10**9):
                time.sleep(0.02)
            time.sleep(self._told().get("seconds", 0))
            self._documents += len(items)
        if any("unspeakable" in str(item) for item in items):
            raise ProviderError(self.model_id, "the text was refused")
        return [self._vector(str(item)) for item in items]

    def count_tokens(self, text: str) -> int:
        return len(re.findall(r"\w+", text)) + 2

    def _vector(self, text: str) -> list[float]:
        numbers = [0.001] * self.dimensions
        for word in re.findall(r"[a-z]+", text.lower()):
            numbers[zlib.crc32(word.rstrip("s").encode()) % self.dimensions] += 1.0
        return numbers

    def _told(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self._folder / "model.json").read_text("utf-8")))
        except (FileNotFoundError, ValueError):
            return {}


class HeldModel(WordsModel):
    """Embeds 24 documents and then never ends."""

    is_local = False

    def _told(self) -> dict[str, Any]:
        return {"holds_after": 24}


class BrokenModel(WordsModel):
    """Refuses every call, as a service does whose key is wrong."""

    is_local = False

    def embed_batch(self, items: list[Item], **options: Any) -> list[list[float]]:
        raise ProviderError(self.model_id, "the service answered 401: this key is not known")


class PaidModel(WordsModel):
    """Costs money, and needs a key that nobody has set."""

    is_local = False
    price_per_million_tokens = 0.02
    needs_key = "nobody"
    key_env_var = "NOBODYS_KEY"


class SiteModels:
    """The plugin that registers them."""

    __name__ = "SiteModels"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @hookimpl
    def register_embedding_models(self, register: Any) -> None:
        register(WordsModel("words", self._folder))
        register(HeldModel("held", self._folder))
        register(BrokenModel("broken", self._folder))
        register(PaidModel("paid", self._folder))
        register(WordsModel("shut", self._folder))
        register(ColourModel())


# -- files -------------------------------------------------------------------------

SUBJECTS = {
    "animals": ["dogs", "cats", "horses", "birds", "whales"],
    "money": ["taxes", "wages", "loans", "prices", "banks"],
    "weather": ["storms", "snow", "droughts", "floods", "winds"],
    "sport": ["runners", "goals", "races", "matches", "swimmers"],
    "food": ["bread", "soup", "cheese", "apples", "honey"],
}
VERBS = ["puzzle", "delight", "worry", "unite", "surprise"]
PEOPLE = ["farmers", "teachers", "neighbours", "sailors", "children"]


def articles(count: int) -> Iterator[tuple[int, str, str, str]]:
    """Yield (id, title, body, section); no two bodies are the same."""
    for n in range(1, count + 1):
        section = list(SUBJECTS)[n % 5]
        subject = SUBJECTS[section][n // 5 % 5]
        verb, people = VERBS[n // 25 % 5], PEOPLE[n // 125 % 5]
        body = f"What everybody should know about {subject} which {verb} {people}, part {n}."
        yield n, f"{subject.title()} {verb} {people} ({n})", body, section


def make_articles(path: Path, count: int = 500, table: str = "articles") -> Path:
    """Write a table of texts, and return the path."""
    with closing(sqlite3.connect(path)) as conn, conn:
        conn.execute(
            f"create table {table} (id integer primary key, title text, body text, section text)"
        )
        conn.executemany(f"insert into {table} values (?, ?, ?, ?)", articles(count))
    return path


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- the server --------------------------------------------------------------------


class BrowserSite:
    """A folder with files, and a server over them that can be killed and started again.

    Attributes:
        folder: where the files and the server's log are.
        url: the address of the server, the same after every start.
        version: of its Datasette, once it was started.
    """

    def __init__(
        self,
        folder: Path,
        *,
        immutable: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        python: str = sys.executable,
        options: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self._python = python
        self._immutable = immutable
        self._options = options
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.version = ""
        self.url = f"http://127.0.0.1:{self._port}"
        user = folder / "user"
        user.mkdir(exist_ok=True)
        (user / "default_embedding_model.txt").write_text("words", "utf-8")
        limits = {"calls_per_minute": 10_000, "calls_per_minute_total": 10_000, "job_workers": 4}
        plugin = {"warm_models": [], **limits}
        site = {"plugins": {"datasette-embed": plugin}, **(config or {})}
        (folder / "site.json").write_text(json.dumps(site), "utf-8")

    @property
    def log(self) -> str:
        """What the server has said, without the lines that are about no fault."""
        lines = (self.folder / "log.txt").read_text("utf-8", "replace").splitlines()
        return "\n".join(line for line in lines if not line.startswith("INFO:"))

    def tell_model(self, **behaviour: Any) -> None:
        """Say how the model behaves from its next call on."""
        new = self.folder / "model.json.new"
        new.write_text(json.dumps(behaviour), "utf-8")
        new.rename(self.folder / "model.json")

    def environment(self) -> dict[str, str]:
        """Return the environment of what runs in this folder."""
        user = str(self.folder / "user")
        own = {"LLM_USER_PATH": user, "DATASETTE_EMBED_USER_PATH": user, "NO_COLOR": "1"}
        return {**os.environ, **own, "DATASETTE_SECRET": SECRET}

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        files = sorted(path for path in self.folder.glob("*.db"))
        arguments = [str(path) for path in files if path.stem not in self._immutable]
        for name in self._immutable:
            arguments += ["-i", str(self.folder / f"{name}.db")]
        command = [self._python, "-m", "tests.browser_site", str(self.folder), "serve"]
        command += [*arguments, "--root", "--port", str(self._port), *self._options]
        with (self.folder / "log.txt").open("a") as log:
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=self.environment(), stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)
        with urllib.request.urlopen(f"{self.url}/-/versions.json") as answer:
            self.version = json.load(answer)["datasette"]["version"]

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def kill(self) -> None:
        """End the server at once, as a power cut does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)

    def query(self, database: str, sql: str) -> list[tuple[Any, ...]]:
        """Return rows of a file itself."""
        with closing(sqlite3.connect(self.folder / f"{database}.db")) as conn:
            return [tuple(row) for row in conn.execute(sql)]

    def execute(self, database: str, sql: str) -> None:
        """Write to a file as any other program would."""
        with closing(sqlite3.connect(self.folder / f"{database}.db", timeout=30)) as conn, conn:
            conn.execute(sql)


@contextmanager
def running(site: BrowserSite) -> Iterator[BrowserSite]:
    """Run a site's server for a while."""
    site.start()
    try:
        yield site
    finally:
        site.kill()


# -- the browser -------------------------------------------------------------------


def chromium_path() -> str:
    """Return where this machine's Chromium is."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "no Chromium: install the package chromium, or set CHROMIUM to its path"
    return path


@contextmanager
def started_browser() -> Iterator[Any]:
    """Start the machine's Chromium.

    For one module at most: while it runs, no other test of this thread can run a loop.
    """
    from playwright.sync_api import sync_playwright

    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=chromium_path(), args=["--no-sandbox", "--disable-gpu", *quiet]
        )
        yield chromium
        chromium.close()


class Visit:
    """One person at a browser: pages that keep a record of every fault.

    Attributes:
        page: the page, with Playwright's methods.
        faults: errors of the console and of scripts, answers with 500 and above, and
            requests that would have left the server.
    """

    def __init__(
        self,
        browser: Any,
        site: BrowserSite,
        *,
        viewport: Mapping[str, int] = DESKTOP,
        actor: Mapping[str, Any] | None = ROOT,
        **options: Any,
    ) -> None:
        self.site = site
        self.faults: list[str] = []
        self._expected: list[str] = []
        is_phone = viewport == PHONE
        self.context = browser.new_context(
            viewport=viewport, has_touch=is_phone, is_mobile=is_phone, base_url=site.url, **options
        )
        self.context.set_default_timeout(PATIENCE)
        self.context.route(lambda url: not url.startswith(f"{site.url}/"), self._stop_at_the_door)
        self.sign_in(actor)
        self.page = self.new_tab()

    def sign_in(self, actor: Mapping[str, Any] | None) -> None:
        """Be somebody from the next request on; None for nobody."""
        self.context.clear_cookies()
        if actor is not None:
            signed = Datasette([], secret=SECRET).sign({"a": dict(actor)}, "actor")
            self.context.add_cookies([{"name": "ds_actor", "value": signed, "url": self.site.url}])

    def new_tab(self) -> Any:
        """Return another page of the same browser."""
        page = self.context.new_page()
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("response", self._note_response)
        return page

    def expect_fault(self, pattern: str) -> None:
        """Name a fault that belongs to what is tested, by a regular expression."""
        self._expected.append(pattern)

    def unexpected_faults(self) -> list[str]:
        """Return the faults that nobody has named."""
        return [f for f in self.faults if not any(re.search(p, f) for p in self._expected)]

    def close(self) -> None:
        """Leave, and fail on what went wrong on the way."""
        self.context.close()
        faults = self.unexpected_faults()
        assert not faults, f"{faults}\n{self.site.log[-3_000:]}"

    def _stop_at_the_door(self, route: Any) -> None:
        self.faults.append(f"leaves the server: {route.request.url}")
        route.abort()

    def _note_message(self, message: Any) -> None:
        # The browser says of every answer of 400 and above that it could not load it.
        if message.type == "error" and "the server responded with a status" not in message.text:
            self.faults.append(f"console: {message.text}")

    def _note_response(self, response: Any) -> None:
        status, path = response.status, urlsplit(response.url).path
        # Datasette answers 404 to the request for an icon that 0.65 does not have.
        if status >= 500 or (status >= 400 and response.request.resource_type != "document"):
            self.faults.append(f"status {status}: {path}")


# -- axe ---------------------------------------------------------------------------

#: What Datasette itself does wrong, by the first digit of its version: rule -> elements of its
#: own templates, none of ours.
INHERITED = {
    "0": {
        "html-has-lang": "html",
        # White on #007bff.
        "color-contrast": "input[type=submit], button#sql-format",
        # The filters of a table page, and the editor of a query page.
        "label": "input.filter-value, .CodeMirror textarea",
        "select-name": ".filters select",
        "target-size": ".filters select",
    },
    "1": {
        "color-contrast": ".table-insert-row span, button#sql-format",
        "label": "input.filter-value",
        "select-name": ".filters select",
        "aria-input-field-name": ".cm-content",
        # Buttons of Datasette's own in its menus of actions.
        "label-content-name-mismatch": "button.action-menu-button",
    },
}
_RUN_AXE = """async ([allowed, tags]) => {
  const result = await axe.run(document, {runOnly: {type: 'tag', values: tags}});
  const found = [];
  for (const rule of result.violations) {
    for (const node of rule.nodes) {
      const element = document.querySelector(node.target[0]);
      if (allowed[rule.id] && element && element.matches(allowed[rule.id])) continue;
      found.push(`${rule.id} ${node.target.join(' ')} ${node.html.slice(0, 160)}`
        + ` ${node.failureSummary.replace(/\\s+/g, ' ').slice(0, 240)}`);
    }
  }
  return found;
}"""
WCAG_A_AA = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def accessibility_faults(page: Any, version: str) -> list[str]:
    """Return what axe finds on a page, without what Datasette's own templates do wrong."""
    page.evaluate(AXE.read_text("utf-8"))
    return list(page.evaluate(_RUN_AXE, [INHERITED[version[0]], WCAG_A_AA]))


_SMALL_TARGETS = """() => [...document.querySelectorAll(
  'body.embed section.content :is(input[type=submit], button, select, summary, nav a)')]
  .filter(element => element.checkVisibility())
  .map(element => [element, element.getBoundingClientRect().height])
  .filter(([element, height]) => height < 43.5)
  .map(([element, height]) => `${element.outerHTML.slice(0, 100)} is ${Math.round(height)} px high`)
"""


def small_targets(page: Any) -> list[str]:
    """Return what is too small for a finger on a page of ours, if a finger points.

    44 px, WCAG 2.2 success criterion 2.5.5; links in running text are exempt from it.
    """
    if not page.evaluate("matchMedia('(pointer: coarse)').matches"):
        return []
    return list(page.evaluate(_SMALL_TARGETS))


def sideways_overflow(page: Any) -> int:
    """Return by how many pixels a page is wider than its window."""
    page.wait_for_load_state("load")  # without its styles any page is
    script = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(page.evaluate(script))


def main() -> None:
    """Run ``datasette`` with the models of this module."""
    from datasette.cli import cli
    from datasette.plugins import pm

    folder = Path(sys.argv.pop(1))
    pm.register(SiteModels(folder))
    if sys.argv[1] == "serve":
        # 1.0 reads config where 0.65 reads metadata.
        option = "--config" if hasattr(Datasette, "allowed") else "--metadata"
        sys.argv += [option, str(folder / "site.json")]
    cli()


if __name__ == "__main__":
    main()
