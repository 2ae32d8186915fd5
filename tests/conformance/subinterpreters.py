"""Subinterpreters from Python by every name and kind that the running version has; used inside children."""

from __future__ import annotations

from typing import Any

try:
    import _interpreters
except ImportError:
    import _xxsubinterpreters as _interpreters


def create(kind: str) -> Any:
    """`kind`: "legacy" shares the main GIL, "isolated" has its own on 3.12+, "concurrent" is the public class."""
    if kind == "concurrent":
        from concurrent import interpreters

        return interpreters.create()
    if hasattr(_interpreters, "new_config"):
        return _interpreters.create(kind, reqrefs=False)
    return _interpreters.create(isolated=kind == "isolated")


def run_string(interpreter: Any, code: str) -> None:
    """Run `code` there; a failure there is an exception here."""
    if hasattr(interpreter, "exec"):
        interpreter.exec(code)
        return
    failed = _interpreters.run_string(interpreter, code)
    if failed is not None:
        raise RuntimeError(failed)


def destroy(interpreter: Any) -> None:
    if hasattr(interpreter, "close"):
        interpreter.close()
    else:
        _interpreters.destroy(interpreter)
