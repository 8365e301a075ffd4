"""The addresses of this package: each in the README, and none in another's way."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from datasette_embed.web import ELSEWHERE, routes

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
PATTERNS = [pattern for pattern, _ in routes() if pattern not in ELSEWHERE]


def addresses_of(pattern):
    """The pattern as a person would write it, once for each format it has."""
    text = pattern.removeprefix("^").removesuffix("$").replace(r"\.", ".")
    text = text.replace(r"(?P<format>.json)?", "")
    formats = re.search(r"\(\?P<format>([^)]*)\)", text)
    texts = [text.replace(formats[0], one) for one in formats[1].split("|")] if formats else [text]
    return [re.sub(r"\(\?P<(\w+)>[^)]*\)", r"{\1}", one) for one in texts]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_address_is_in_the_readme(pattern):
    """What exists is in the manual."""
    for address in addresses_of(pattern):
        address = address.replace("{database}", "{db}").replace("{collection}", "{name}")
        assert re.search(rf"{re.escape(address)}[`?]", README), address


@pytest.mark.parametrize(
    "path",
    ["/", "/data", "/data/posts", "/data/posts/1", "/data.json", "/data/embed", "/-/versions.json"],
)
def test_no_address_of_datasette_is_taken(path):
    """Ours are below ``/-/embed``."""
    assert not [pattern for pattern, _ in routes() if re.search(pattern, path)]


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/d/-/embed/c/x~2Ejson.json", {"database": "d", "collection": "x~2Ejson"}),
        ("/d/-/embed/c/similar.json", {"database": "d", "collection": "similar"}),
        ("/d/-/embed/c/similar/similar.json", {"database": "d", "collection": "similar"}),
        ("/d/-/embed/c/new/sync", {"database": "d", "collection": "new"}),
        ("/d/-/embed/jobs/12.json", {"database": "d", "job": "12"}),
        ("/d/-/embed/jobs/12/retry", {"database": "d", "job": "12", "action": "retry"}),
    ],
)
def test_names_do_not_collide(path, names):
    """One address, one meaning."""
    found = [match.groupdict() for pattern in PATTERNS if (match := re.search(pattern, path))]
    assert found == [names]
