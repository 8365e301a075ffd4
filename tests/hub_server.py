"""A hub on 127.0.0.1: as much of the protocol as huggingface_hub speaks to download a model.

Learnt from huggingface_hub 2.4: ``HfApi.repo_info``, ``HfApi.list_repo_tree`` and
``get_hf_file_metadata``. The client is the real one.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Hub:
    """Repositories by name, each a folder; names in ``gated`` are shown to nobody."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.repositories: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.commit = "1" * 40
        #: Commit -> the repositories as they were then.
        self.earlier: dict[str, dict[str, Path]] = {}
        self.is_down = False
        #: (method, path) of each request.
        self.requests: list[tuple[str, str]] = []

    @property
    def downloaded(self) -> set[str]:
        """Return the paths inside the repository of the files whose content was asked for."""
        return {
            path.partition("/resolve/")[2].partition("/")[2]
            for method, path in self.requests
            if method == "GET" and "/resolve/" in path
        }


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = hub = Hub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        hub.requests.append((self.command, path))
        api, _, inside = path.partition("/api/models/")
        name = "/".join((inside if inside else path.lstrip("/")).split("/")[:2])
        rest = (inside if inside else path.lstrip("/"))[len(name) + 1 :]
        if hub.is_down:
            self._answer(503, b"down")
        elif name in hub.gated:
            self._answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif name not in hub.repositories:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            kind, _, where = rest.partition("/")
            revision, _, file = where.partition("/")
            folder = hub.earlier.get(revision, hub.repositories)[name]
            commit = revision if revision in hub.earlier else hub.commit
            if kind != "" and revision not in ("main", "v1", commit):
                self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif kind == "resolve":
                self._file(commit, folder / file)
            elif kind == "tree":
                self._json(_tree(folder))
            else:
                self._json({"id": name, "sha": commit, "siblings": [], "private": False})

    def _file(self, commit: str, path: Path) -> None:
        if not path.is_file():
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        self._answer(200, content, {"ETag": etag, "X-Repo-Commit": commit})

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _tree(folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
