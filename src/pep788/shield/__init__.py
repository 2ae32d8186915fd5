"""Protect unmodified compiled modules against the end of the interpreter.

``enable()`` puts functions of ours in the place of ``PyGILState_Ensure`` and a few more, in every compiled object that
imports them, loaded before or later: a callback in flight is finished before the interpreter is finalized, and a late
one sleeps for ever instead of crashing. ``disable()`` puts back what was there. See docs/shield.md.

``pep788 shield -- python app.py`` does it for a program, ``PEP788_SHIELD=1`` for every program of an environment where
``pep788 shield --install`` was run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pep788.shield._patch import (
    DRAIN_SECONDS,
    Entry,
    Report,
    ShieldError,
    disable,
    enable,
    enable_from_environment,
    is_enabled,
    report,
)

__all__ = [
    "DRAIN_SECONDS",
    "Entry",
    "Report",
    "ShieldError",
    "disable",
    "enable",
    "enable_from_environment",
    "is_enabled",
    "report",
]


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``pep788 shield``; returns the exit status, or becomes the program that it runs."""
    from pep788.shield import _command

    return _command.main(sys.argv[1:] if argv is None else argv)
