"""Subinterpreters from Python, by whatever name this version has the module."""

from __future__ import annotations

try:
    import _interpreters
except ImportError:
    import _xxsubinterpreters as _interpreters


def create(config: str = "legacy"):
    """Create one; `config` is "legacy" (shares the GIL, may import anything) or "isolated"."""
    if hasattr(_interpreters, "new_config"):
        return _interpreters.create(config, reqrefs=False)
    return _interpreters.create(isolated=config == "isolated")


def run(number, code: str) -> None:
    """Run `code` there; a failure there is an exception here."""
    failed = _interpreters.run_string(number, code)
    if failed is not None:
        raise RuntimeError(failed)


destroy = _interpreters.destroy
