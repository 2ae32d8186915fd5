"""P303: a shared object that ends threads with PyThread_exit_thread."""

from __future__ import annotations

from typing import Iterator

from ..model import Finding, Severity
from ..project import Project
from ..registry import Rule, rule


@rule(
    "P303",
    "binary-exit-thread",
    "a binary that ends threads with PyThread_exit_thread",
    Severity.WARNING,
    why="It unwinds the thread's stack (pthread_exit): noexcept frames abort the process, locks stay locked. "
    "Deprecated "
    "since 3.14.",
)
def check(rule: Rule, project: Project) -> Iterator[Finding]:
    for binary in project.binaries:
        if "PyThread_exit_thread" in binary.imports:
            message = "It calls PyThread_exit_thread, which ends the calling thread in the middle of its frames."
            yield rule.on(binary.span, message, "Let the thread's function return.", python=binary.python)
