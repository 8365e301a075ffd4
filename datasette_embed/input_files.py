"""Records out of a CSV, TSV, JSON or newline-delimited JSON file.

Layer 2: imports ``errors`` and ``strict_json``. Bytes to text, and text to one dict a record;
what becomes an id and what becomes content is decided in ``inputs``. sqlite-utils'
``rows_from_file`` reads the same formats, but tries no encodings, takes newline-delimited
JSON for JSON, and guesses that a column of words is separated by one of their letters.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import IO, Any, NamedTuple, TextIO

from .errors import SourceError
from .strict_json import json_value

_CHUNK_BYTES = 1 << 20
#: The most the csv module takes on every platform (its own limit is 131,072 characters).
_LONGEST_FIELD = 2**31 - 1
_DELIMITERS = "\t,;|"
_EXPECTED = 'expected a list of objects: [{"id": …, "text": …}, …]'
_SQLITE_MAGIC = b"SQLite format 3\0"


class InputFormat(StrEnum):
    """The formats of an input file; the values are LLM's ``--format``."""

    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    NL = "nl"


class Record(NamedTuple):
    """One record of a file or a query.

    Attributes:
        place: where it was found, for a sentence: ``line 7``.
        values: its columns, in their order; CSV and TSV give text only.
    """

    place: str
    values: dict[str, Any]


# -- bytes to text -----------------------------------------------------------------


def check_encoding(encoding: str) -> None:
    """Refuse a name that is no encoding of text.

    Raises:
        SourceError: naming it.
    """
    try:
        b"a".decode(encoding)
    except UnicodeError:
        pass
    except (LookupError, ValueError) as error:
        raise SourceError("--encoding", f"no encoding of text is called '{encoding}'") from error


def decoded(data: bytes, encodings: Sequence[str]) -> str | None:
    r"""Return the text in the first encoding that reads the data; None if none does.

    Line ends become ``\n``, as they do for LLM, so that content hashes agree.
    """
    for encoding in encodings:
        try:
            text = data.decode(_without_bom(encoding))
        except UnicodeError:
            continue
        return text.replace("\r\n", "\n").replace("\r", "\n")
    return None


def _without_bom(encoding: str) -> str:
    """Return the encoding that skips a byte order mark, where it is UTF-8."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def open_text(file: IO[bytes], path: str, encodings: Sequence[str]) -> TextIO:
    """Return a binary file as text, in the first encoding that reads all of it.

    Raises:
        SourceError: none does, with the place where the first one failed; or the file is
            a SQLite database.
    """
    if file.read(len(_SQLITE_MAGIC)) == _SQLITE_MAGIC:
        raise SourceError(path, "is a SQLite database: attach it with --attach and use --sql")
    wrong = ""
    for encoding in encodings:
        file.seek(0)
        place = _find_undecodable(file, encoding)
        if place is None:
            file.seek(0)
            return io.TextIOWrapper(file, encoding=_without_bom(encoding))
        wrong = wrong or place
    file.seek(0)
    is_utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    other = "utf-16" if is_utf16 else "latin-1"
    raise SourceError(
        path,
        f"is not text in {' or '.join(encodings)} ({wrong}). Say what it is, for example with "
        f"--encoding {other}",
    )


def _find_undecodable(file: IO[bytes], encoding: str) -> str | None:
    """Return where a file stops to be text in this encoding, or None."""
    decoder = codecs.getincrementaldecoder(_without_bom(encoding))()
    offset, line = 0, 1
    while True:
        chunk = file.read(_CHUNK_BYTES)
        try:
            decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            # Its bytes begin with those of a character that the chunk before cut in two.
            position = offset + len(chunk) - len(error.object) + error.start
            line += error.object[: error.start].count(b"\n")
            return f"byte {position:,}, on line {line:,}"
        except UnicodeError as error:
            return str(error)
        if not chunk:
            return None
        offset += len(chunk)
        line += chunk.count(b"\n")


# -- text to records ---------------------------------------------------------------


def read_records(text: TextIO, path: str, format: InputFormat | None) -> Iterator[Record]:
    """Yield the records of a file.

    Args:
        path: named in errors.
        format: None to find out.

    Raises:
        SourceError: it is empty or not of this format; the message names the line.
    """
    found, delimiter = _detect(text, path)
    if format is InputFormat.JSON or (format is None and found is InputFormat.JSON):
        yield from _read_json(text, path)
    elif format is InputFormat.NL or (format is None and found is InputFormat.NL):
        yield from _read_lines(text, path)
    else:
        given = {InputFormat.CSV: ",", InputFormat.TSV: "\t", None: delimiter}
        yield from _read_delimited(text, path, given[format])


def _detect(text: TextIO, path: str) -> tuple[InputFormat, str]:
    """Return the format a file looks like, and what separates its columns.

    Raises:
        SourceError: it is empty.
    """
    first = next((line for line in text if line.strip()), None)
    if first is None:
        raise SourceError(path, "is empty")
    start = first.lstrip()[0]
    has_more = start == "{" and any(line.strip() for line in text)
    text.seek(0)
    if start == "[" or path.lower().endswith(".json") and start != "{":
        return InputFormat.JSON, ""
    if start == "{":
        # One object a line, unless the first line is only the beginning of one object.
        return InputFormat.NL if has_more and _is_json(first) else InputFormat.JSON, ""
    if path.lower().endswith((".jsonl", ".ndjson")):
        return InputFormat.NL, ""
    # Outside of quotes, for a header may be a sentence.
    names = "".join(first.split('"')[::2])
    delimiter = max(_DELIMITERS, key=names.count)
    return InputFormat.CSV, delimiter if delimiter in names else ","


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _read_json(text: TextIO, path: str) -> Iterator[Record]:
    try:
        value = json_value(text.read())
    except ValueError as error:
        raise SourceError(path, f"is not JSON: {error}") from error
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, list) and inner and isinstance(inner[0], dict):
                raise SourceError(
                    path,
                    f"is an object with a list in '{name}': {_EXPECTED}. Take the list out of it, "
                    f"with jq '.{name}' for example",
                )
        value = [value]  # one record, as for sqlite-utils and LLM
    if not isinstance(value, list):
        raise SourceError(path, f"is one JSON value: {_EXPECTED}")
    for number, record in enumerate(value, 1):
        if not isinstance(record, dict):
            raise SourceError(path, f"item {number:,} of the list is no object: {_EXPECTED}")
        yield Record(f"item {number:,}", record)


def _read_lines(text: TextIO, path: str) -> Iterator[Record]:
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            record = json_value(line)
        except ValueError as error:
            # Its own line is counted inside of this one.
            reason = getattr(error, "msg", error)
            raise SourceError(path, f"line {number:,} is not JSON: {reason}") from error
        if not isinstance(record, dict):
            raise SourceError(path, f"line {number:,} is no JSON object, one a line is expected")
        yield Record(f"line {number:,}", record)


def _read_delimited(text: TextIO, path: str, delimiter: str) -> Iterator[Record]:
    # Strict, or a quotation mark that is never closed would swallow the rest of the file.
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    with long_fields():
        try:
            names: list[str] = []
            for values in reader:
                if not values:
                    continue
                if not names:
                    names = _checked_names(values, path)
                    continue
                if len(values) > len(names):
                    raise SourceError(
                        path,
                        f"line {reader.line_num:,} has {len(values)} fields and the header "
                        f"{len(names)}: put texts with a '{delimiter}' in them in double quotes",
                    )
                values += [""] * (len(names) - len(values))
                yield Record(f"line {reader.line_num:,}", dict(zip(names, values, strict=True)))
        except csv.Error as error:
            raise SourceError(
                path,
                f"line {reader.line_num:,}: {error}. A field in double quotes ends with one, and "
                'has "" for each inside',
            ) from error


def _checked_names(names: list[str], path: str) -> list[str]:
    """Return the header, unless two of its columns have one name.

    Raises:
        SourceError: naming it.
    """
    for name in names:
        if names.count(name) > 1:
            raise SourceError(path, f"two columns are called '{name}': rename one of them")
    return names


@contextmanager
def long_fields() -> Iterator[None]:
    """Let the csv module read fields of any length, and put its limit back."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)
