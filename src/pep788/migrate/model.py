"""What a run comes to: each site with its outcome, each view, each changed file."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Dict, List, Optional, Tuple

from ..check.ctree import Function
from ..check.model import Edit, Skip, Span

if TYPE_CHECKING:
    from .life import Store
    from .macro_body import MacroChange
    from .scoped import Module


class Outcome(enum.Enum):
    """SKIPPED: it must not or cannot be rewritten; ASKED: it can, once its author has decided something."""

    MIGRATED = "migrated"
    SKIPPED = "skipped"
    ASKED = "needs a decision"
    FAILED = "failed"


@dataclasses.dataclass
class Site:
    """One place that attaches; `reason` says why it was not migrated, `options` how to answer the question."""

    span: Span
    function: str
    outcome: Outcome
    reason: str = ""
    options: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()
    edits: Tuple[Edit, ...] = ()
    view: str = ""
    """What names the interpreter to attach to, once it is migrated."""
    needs_view: bool = False
    """It takes the view that the module's init function makes."""
    store: "Optional[Store]" = None
    """The struct whose view it takes."""
    macros: "Optional[MacroChange]" = None
    """The macros that it goes through, which change for all their uses."""
    module: "Optional[Module]" = None
    """The module of pybind11 or nanobind whose view it takes."""

    def fail(self, outcome: Outcome, reason: str, options: Tuple[str, ...] = ()) -> None:
        self.outcome, self.reason, self.options = outcome, reason, options
        self.notes, self.edits, self.view = (), (), ""


class NotMigrated(Exception):
    """A site is left alone."""

    outcome = Outcome.SKIPPED

    def __init__(self, reason: str, *options: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.options = options

    def site(self, span: Span, function: str) -> Site:
        return Site(span, function, self.outcome, self.reason, self.options)


class Refused(NotMigrated):
    """No answer of the author would make the rewrite safe, or not all of the site can be seen."""


class Asked(NotMigrated):
    """Only the author knows; the message is a question."""

    outcome = Outcome.ASKED


class Worse(NotMigrated):
    """The result is not what was meant."""

    outcome = Outcome.FAILED


@dataclasses.dataclass(frozen=True)
class View:
    """Where a view comes from; `path` and `line` are where it is made."""

    expression: str
    path: str
    line: int
    how: str


@dataclasses.dataclass
class Report:
    """The outcome of one run. `after` has the new bytes of changed files only, `before` their old ones."""

    sites: List[Site] = dataclasses.field(default_factory=list)
    views: List[View] = dataclasses.field(default_factory=list)
    skipped: List[Skip] = dataclasses.field(default_factory=list)
    notes: List[str] = dataclasses.field(default_factory=list)
    set_up: Dict[str, List[Edit]] = dataclasses.field(default_factory=dict)
    """The edits that no site has: includes, views and the calls in module init, by path."""
    bindings: List[str] = dataclasses.field(default_factory=list)
    """The binding libraries that a header of ours is needed for."""
    before: Dict[str, bytes] = dataclasses.field(default_factory=dict)
    after: Dict[str, bytes] = dataclasses.field(default_factory=dict)

    def count(self, outcome: Outcome) -> int:
        return sum(site.outcome is outcome for site in self.sites)


def shown_name(function: Function) -> str:
    """As an author would write it: with the class in front."""
    owner = f"{function.owner}::" if function.owner and not function.is_lambda else ""
    return owner + function.name
