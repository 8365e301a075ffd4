"""The functions and classes of Python's standard library as rows, for the demo.

Layer 1: imports the standard library only. Sources are parsed, never imported, since
importing every module would run code of all kinds (``antigravity`` opens a browser).
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: Folders of the standard library that hold no library code.
_LEFT_OUT = {"test", "tests", "idle_test", "lib2to3", "idlelib", "site-packages", "turtledemo"}


class StdlibRow(NamedTuple):
    """One function or class. ``id`` is the dotted name, unique."""

    id: str
    module: str
    name: str
    kind: str
    signature: str
    summary: str
    doc: str


def iter_stdlib_rows() -> Iterator[StdlibRow]:
    """Yield every public function, class and method with a docstring, by module and place.

    Left out: tests, names and modules that begin with an underscore, files that this
    Python cannot parse, and modules written in C, which have no source to read.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        if _LEFT_OUT & set(parts) or _is_private(module):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue
        for row in _rows_of(tree, module, ""):
            if row.id not in seen:
                seen.add(row.id)
                yield row


def _rows_of(node: ast.AST, module: str, inside: str) -> Iterator[StdlibRow]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If | ast.Try):
            yield from _rows_of(child, module, inside)
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if _is_private(child.name):
            continue
        name = f"{inside}.{child.name}" if inside else child.name
        if doc := ast.get_docstring(child):
            is_class = isinstance(child, ast.ClassDef)
            yield StdlibRow(
                id=f"{module}.{name}",
                module=module,
                name=name,
                kind="class" if is_class else "method" if inside else "function",
                signature=_signature(child),
                summary=_summary(doc, child.name),
                doc=doc.strip(),
            )
        if isinstance(child, ast.ClassDef):
            yield from _rows_of(child, module, name)


def _summary(doc: str, name: str) -> str:
    """Return the first paragraph that is not just the signature once more."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in doc.strip().split("\n\n")]
    if len(paragraphs) > 1 and paragraphs[0].startswith(f"{name}("):
        return paragraphs[1]
    return paragraphs[0]


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {node.name}({', '.join(map(ast.unparse, node.bases))})"
    return f"{node.name}({ast.unparse(node.args)})"


def _is_private(dotted_name: str) -> bool:
    return any(part.startswith("_") for part in dotted_name.split("."))
