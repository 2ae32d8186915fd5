"""What the checker says: findings, what it skipped, and the report of both."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Dict, List, Tuple


class Severity(enum.Enum):
    """ERROR: it is wrong on every path that gets there; WARNING: it is wrong once finalization has begun."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Confidence(enum.Enum):
    """HIGH: all it depends on was understood; MEDIUM: the site is certain, something it depends on is not."""

    HIGH = "high"
    MEDIUM = "medium"


class Fix(enum.Enum):
    """What applying a finding's edits does: SAFE keeps the meaning, UNSAFE may change it, DISPLAY
    is there to be read."""

    SAFE = "safe"
    UNSAFE = "unsafe"
    DISPLAY = "display"


@dataclasses.dataclass(frozen=True)
class Span:
    """Bytes `start` to `end` (exclusive) of a file; lines and columns count from 1, columns in characters."""

    path: str
    start: int
    end: int
    line: int
    column: int
    end_line: int
    end_column: int


@dataclasses.dataclass(frozen=True)
class Related:
    """Another place that a finding is about."""

    span: Span
    message: str


@dataclasses.dataclass(frozen=True)
class Edit:
    """Replace bytes `start` to `end` (exclusive) of the finding's file; only where the result means what was meant."""

    start: int
    end: int
    text: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing one rule says about one place; `data` is for tools, `migrate` among them."""

    rule: str
    severity: Severity
    span: Span
    message: str
    help: str
    confidence: Confidence = Confidence.HIGH
    function: str = ""
    related: Tuple[Related, ...] = ()
    edits: Tuple[Edit, ...] = ()
    fix: Fix = Fix.SAFE
    """Of the edits, if there are any."""
    data: Dict[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    def fixed_by(self, unsafe: bool) -> Tuple[Edit, ...]:
        """The edits that may be applied: those that keep the meaning, with `unsafe` those that may change it, too."""
        return self.edits if self.fix is Fix.SAFE or (unsafe and self.fix is Fix.UNSAFE) else ()

    @property
    def order(self) -> Tuple[str, int, str]:
        return (self.span.path, self.span.start, self.rule)


@dataclasses.dataclass(frozen=True)
class Skip:
    """A file, or a part of one, that was not checked, and why."""

    path: str
    reason: str
    kind: str  # "generated", "vendored", "unreadable", "unparsed"
    part: bool = False
    """Only some of its functions."""


@dataclasses.dataclass
class Report:
    """The outcome of one run."""

    findings: List[Finding] = dataclasses.field(default_factory=list)
    skipped: List[Skip] = dataclasses.field(default_factory=list)
    files: int = 0
    lines: int = 0
    suppressed: int = 0
    hidden_notes: int = 0
    in_baseline: int = 0
    comments: List[Related] = dataclasses.field(default_factory=list)
    """Suppression comments that are not understood, or name rules that there are not."""
    frames: Dict[str, bytes] = dataclasses.field(default_factory=dict)
    """The text of each file with findings, for code frames."""

    @property
    def lossy(self) -> List[Skip]:
        """What was skipped although it should have been checked."""
        return [skip for skip in self.skipped if skip.kind in ("unreadable", "unparsed")]
