"""Parts of pep788.h as text, for programs that run them without Python (sections 2-4 need no help: PEP788_ENGINE_ONLY)."""

from __future__ import annotations

import pathlib
import re
from typing import Dict, Iterable, Tuple

HEADER = pathlib.Path(__file__).resolve().parent.parent.parent / "src" / "pep788" / "include" / "pep788.h"


class Missing(Exception):
    """The header is not what the caller takes it for; the text says where."""


def find_function(text: str, name: str) -> Tuple[int, int]:
    """Where a function's definition is; it must be there exactly once."""
    pattern = rf"^(?:static inline|PEP788_NOT_INLINE) [^\n;]*\b{name}\([^;{{]*\)\n\{{\n.*?^\}}\n"
    found = list(re.finditer(pattern, text, re.M | re.S))
    if len(found) != 1:
        raise Missing(f"{name} is defined {len(found)} times in the header: adapt the caller's list")
    return found[0].span()


def copy_functions(text: str, names: Iterable[str], program: str) -> str:
    """These functions' definitions, word by word, and of those they call what is neither in sections 2-4 nor defined
    (a stub) by the C program that includes the copy."""
    engine_end = text.find("#endif /* !PEP788_NATIVE */", text.find("/* 4  Guards"))
    if engine_end < 0:
        raise Missing("the end of section 4 was not found in the header")
    defined_late = set(re.findall(r"^(?:static inline|PEP788_NOT_INLINE) [^\n;]*\b(pep788_\w+)\([^;{]*\)\n\{", text[engine_end:], re.M))
    stubs = set(re.findall(r"^static [^\n(]*\b(pep788_\w+)\(|^#define (pep788_\w+)", program, re.M))
    stubs = {name for pair in stubs for name in pair if name}
    wanted = list(names)
    spans: Dict[str, Tuple[int, int]] = {}
    while wanted:
        name = wanted.pop()
        if name not in spans:
            spans[name] = find_function(text, name)
            called = set(re.findall(r"\b(pep788_\w+)\(", text[slice(*spans[name])]))
            wanted += (called & defined_late) - stubs
    bodies = [text[slice(*span)] for span in sorted(spans.values())]
    return "".join(body.partition("\n{")[0] + ";\n" for body in bodies) + "\n" + "\n".join(bodies)
