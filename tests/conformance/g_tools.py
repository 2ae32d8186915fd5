"""What the G, V and E tests share: the probe, as a module and as an embedding program, and what versions can do."""

from __future__ import annotations

import pathlib
import sys
import textwrap
from typing import List

import pytest

import support

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE / "probe.c"

# gh-114271: 3.12.0 to 3.12.2 refuse threads from the very start of finalization.
REFUSES_THREADS = (3, 12, 0) <= sys.version_info[:3] <= (3, 12, 2)
OWN_GIL = sys.version_info >= (3, 12)

needs_late_threads = pytest.mark.skipif(REFUSES_THREADS, reason="3.12.0-3.12.2 start no thread during finalization")
needs_own_gil = pytest.mark.skipif(not OWN_GIL, reason="no interpreter has a GIL of its own before 3.12")
# On 3.9-3.11 the header finds the thread-specific key of CPython where keys are those of pthreads.
rebinds = pytest.mark.skipif(
    sys.version_info < (3, 12) and not sys.platform.startswith(("linux", "darwin", "freebsd")),
    reason="the thread state bound to a thread cannot be changed before 3.12",
)


def module_path() -> List[pathlib.Path]:
    """Where the children find `probe` and the helper for subinterpreters."""
    return [support.build_extension("probe", [SOURCE]), HERE]


def child(code: str, *, timeout: float = 60, **options) -> support.Result:
    """Run Python code that imports the probe."""
    return support.run_child(textwrap.dedent(code), path=module_path(), timeout=timeout, **options)


def embed(script: str, *, timeout: float = 60, **options) -> support.Result:
    """Run a script in a program that embeds Python; the script starts before Py_Initialize."""
    program = support.build_program("embed_probe", [SOURCE], defines=["PROGRAM"])
    return support.run_child([program, textwrap.dedent(script)], path=[HERE], timeout=timeout, **options)


def in_order(result: support.Result, *expected: str) -> None:
    """The child ended well and logged these lines in this order, once each (others may stand between)."""
    result.check()
    lines = [line for line in result.lines() if line in expected]
    if lines != list(expected):
        pytest.fail(result.describe(f"expected {expected}, got {lines}"), pytrace=False)
