"""The rules: what one is, and the list of all."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from .ctree import CFile, Event, Function, Node
from .model import Confidence, Edit, Finding, Fix, Related, Severity, Span
from .project import Project

Check = Callable[["Rule", Project], Iterator[Finding]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A kind of finding.

    `why` is said once for all findings of the rule.  `replaces` are rules that say less about the same place, and are
    silent where this one speaks.
    """

    id: str
    name: str
    summary: str
    severity: Severity
    check: Check
    why: str = ""
    replaces: Tuple[str, ...] = ()

    def run(self, project: Project) -> Iterator[Finding]:
        return self.check(self, project)

    def at(self, function: Function, node: Node, message: str, help: str, **more: Any) -> Finding:
        """A finding in a function of a C, C++ or Cython file."""
        if not function.file.editable:
            more.pop("edits", None)
        return self.on(function.file.span(node), message, help, function=function.name, **more)

    def on(
        self,
        span: Span,
        message: str,
        help: str,
        *,
        function: str = "",
        related: Sequence[Related] = (),
        edits: Sequence[Edit] = (),
        fix: Fix = Fix.SAFE,
        confidence: Confidence = Confidence.HIGH,
        **data: Any,
    ) -> Finding:
        return Finding(
            self.id,
            self.severity,
            span,
            message,
            help,
            confidence,
            function,
            tuple(related),
            tuple(edits),
            fix,
            data,
        )


RULES: Dict[str, Rule] = {}


def rule(
    id: str, name: str, summary: str, severity: Severity, *, why: str, replaces: Tuple[str, ...] = ()
) -> Callable[[Check], Check]:
    """Make a rule of a function that yields findings."""

    def register(check: Check) -> Check:
        RULES[id] = Rule(id, name, summary, severity, check, why, replaces)
        return check

    return register


def all_rules() -> List[Rule]:
    """Every rule of the package `rules`, by id."""
    package = importlib.import_module(".rules", __package__)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return [RULES[id] for id in sorted(RULES)]


def related(file: CFile, event: Event, message: str) -> Related:
    return Related(file.span(event.node), message)
