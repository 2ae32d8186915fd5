"""Comments of `pep788 check`: what it is not to report is not to be rewritten either."""

from __future__ import annotations

from typing import Dict, List

from ..check import engine
from ..check.model import Span

RULES = ("P101", "P102", "P103", "P104", "P105", "P106", "P108", "P111", "P112", "P121", "P122")
"""Those whose findings are the sites of `pep788 migrate`."""


class Ignored:
    """The suppression comments of all files, by path."""

    def __init__(self, texts: Dict[str, bytes]) -> None:
        self._texts = texts
        self._comments: Dict[str, List[engine.Suppression]] = {}

    def covers(self, span: Span) -> bool:
        if span.path not in self._comments:
            self._comments[span.path] = list(engine.suppressions(self._texts.get(span.path, b"")))
        return any(comment.covers(span.line, RULES) for comment in self._comments[span.path])
