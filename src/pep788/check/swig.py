"""SWIG interface files: the C code that SWIG copies into its output, with everything else blanked out.

That is what stands in `%{ ... %}`, and the bodies of `%typemap`, `%exception`, `%feature` and `%extend`.
"""

from __future__ import annotations

import re
from typing import List, Optional, Tuple

from .preprocessor import blank

_CODE = re.compile(rb"%\{(.*?)%\}", re.DOTALL)
_DIRECTIVE = re.compile(rb"^[ \t]*(%(?:typemap|exception|feature|extend)\b)", re.MULTILINE)
_HEADS = {b"%typemap": b"typemap f()", b"%exception": b"except f()", b"%feature": b"feature f()"}
"""What takes the place of a directive: a function whose type no C code has, so that nothing invents a value for it."""
_TOKEN = re.compile(rb"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|/\*.*?\*/|//[^\n]*|%\{|%\}|[{};]", re.DOTALL)
_INNER_DIRECTIVE = re.compile(rb"^[ \t]*%\w+[^\n{]*$|%[{}]", re.MULTILINE)


def c_code(data: bytes) -> bytes:
    """The same bytes at the same places, but only the code; a directive with a body becomes a function or a struct."""
    result = bytearray(data)
    outside: List[Tuple[int, int]] = []
    inside: List[Tuple[int, int]] = []
    at = 0
    while True:
        code, directive = _CODE.search(data, at), _DIRECTIVE.search(data, at)
        if code is None and directive is None:
            break
        if directive is not None and (code is None or directive.start(1) < code.start()):
            body = _body(data, directive.end(1))
            if body is None or not _put_head(result, directive.group(1), directive.start(1), body):
                outside.append((at, directive.end(1)))
                at = directive.end(1)
                continue
            outside.append((at, directive.start(1)))
            inside.append(body)
            at = body[1] + (result[body[1] : body[1] + 1] != data[body[1] : body[1] + 1])
        elif code is not None:
            outside.append((at, code.start(1)))
            at = code.end(1)
    outside.append((at, len(data)))
    for start, end in inside:
        result[start:end] = _plain(bytes(result[start:end]))
    return blank(bytes(result), outside)


def _body(data: bytes, at: int) -> Optional[Tuple[int, int]]:
    """From the brace that opens a directive's body to behind the one that closes it; None if it has no body."""
    opening = _next(data, at, (b"{", b"%{", b";"))
    if opening is None or opening.group() == b";":
        return None
    if opening.group() == b"%{":
        closing = _next(data, opening.end(), (b"%}",))
        return (opening.start(), closing.end()) if closing is not None else None
    depth, found = 1, opening
    while depth:
        following = _next(data, found.end(), (b"{", b"}"))
        if following is None:
            return None
        found = following
        depth += 1 if found.group() == b"{" else -1
    return opening.start(), found.end()


def _next(data: bytes, at: int, marks: Tuple[bytes, ...]) -> "Optional[re.Match[bytes]]":
    return next((found for found in _TOKEN.finditer(data, at) if found.group() in marks), None)


def _put_head(result: bytearray, directive: bytes, start: int, body: Tuple[int, int]) -> bool:
    """Write what C has for it over the directive, and braces over `%{` and `%}`; whether there was room."""
    opening, end = body
    if directive == b"%extend":
        result[start : start + 7] = b"struct "
        if result[end : end + 1].isspace():
            result[end : end + 1] = b";"
        return True
    head = _HEADS[directive]
    if opening - start < len(head):
        return False
    lines = re.sub(rb"[^\r\n]", b" ", bytes(result[start:opening]))
    result[start:opening] = lines
    result[start : start + len(head)] = head
    if result[opening : opening + 2] == b"%{":
        result[opening : opening + 2] = b" {"
        result[end - 2 : end] = b"} "
    return True


def _plain(body: bytes) -> bytes:
    """SWIG's own words in C code: `$action` is a statement, `$1` a variable, a directive nothing."""
    body = _INNER_DIRECTIVE.sub(lambda found: re.sub(rb"[^\r\n]", b" ", found.group()), body)
    return body.replace(b"$action", b"action;").replace(b"$", b"_")
