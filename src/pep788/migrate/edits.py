"""Changing bytes and nothing else: line ends and indentation as they are around the place, and diffs of the result."""

from __future__ import annotations

import difflib
import re
from typing import Iterable, List, Sequence

from ..check.ctree import span_of
from ..check.model import Edit, Span

_REST_OF_LINE = re.compile(rb"[ \t]*(?://[^\n]*?[^\\\n]|//|/\*(?:(?!\*/)[^\n])*\*/[ \t]*)?(?=\r?\n|\r?\Z)")


class Overlap(Exception):
    """Two edits of the same bytes."""


def apply(data: bytes, edits: Iterable[Edit]) -> bytes:
    """The new bytes; insertions at the same place keep their order."""
    result, at = bytearray(), 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        if edit.start < at:
            raise Overlap
        result += data[at : edit.start] + edit.text.encode("utf-8", "surrogateescape")
        at = edit.end
    return bytes(result + data[at:])


def span(path: str, data: bytes, start: int, end: int) -> Span:
    """These bytes, for a report."""
    lines = [0, *(found.end() for found in re.finditer(rb"\n", data))]
    return span_of(path, data, lines, start, end)


def newline(data: bytes, at: int) -> str:
    """The line end of the line this byte is in, or of the first line if that has none."""
    end = data.find(b"\n", at)
    if end < 0:
        end = data.find(b"\n")
    return "\r\n" if end > 0 and data[end - 1 : end] == b"\r" else "\n"


def line_start(data: bytes, at: int) -> int:
    return data.rfind(b"\n", 0, at) + 1


def indentation(data: bytes, at: int) -> str:
    """The blanks that the line of this byte begins with."""
    found = re.compile(rb"[ \t]*").match(data, line_start(data, at))
    return found.group().decode("ascii") if found is not None else ""


def unit(inner: str, outer: str) -> str:
    """One level, by the indentation of a statement and of what it is in."""
    level = inner[len(outer) :] if inner.startswith(outer) else ""
    return level or ("\t" if "\t" in inner else "    ")


def after_line(data: bytes, at: int) -> "int | None":
    """Where the line ends if nothing but a comment follows `at` on it, else None."""
    found = _REST_OF_LINE.match(data, at)
    if found is None:
        return None
    return found.end()


def indented(lines: Sequence[str], indent: str, level: str) -> List[str]:
    """`lines` begin with a tab for each level."""
    return [indent + level * (len(line) - len(line.lstrip("\t"))) + line.lstrip("\t") if line else "" for line in lines]


def diff(path: str, before: bytes, after: bytes) -> bytes:
    """A unified diff that `git apply` and `patch` take, whatever the encoding and the line ends."""
    name = path.encode("utf-8", "surrogateescape")
    lines = difflib.diff_bytes(
        difflib.unified_diff, _lines(before), _lines(after), b"a/" + name, b"b/" + name, lineterm=b"\n"
    )
    whole = [line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n" for line in lines]
    return b"".join(whole)


def _lines(data: bytes) -> List[bytes]:
    """Only line feeds end a line of a diff."""
    lines = data.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
