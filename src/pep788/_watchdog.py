"""Why does this process not end? The Python half of the watchdog; the one that reports is ``_watchdog.c``.

The clock starts with ``threading._shutdown``, the first thing that finalization does. That function is wrapped,
because what ``threading._register_atexit`` registers runs in reverse order: after concurrent.futures has waited for
its workers. An atexit callback is the second chance, where somebody puts another function in its place.
"""

import atexit
import os
import sys

from . import _core

TYPE_CHECKING = False  # neither __future__ nor typing need be loaded for it
if TYPE_CHECKING:
    from typing import Callable, Optional

_LONGEST = 1e9  # seconds

_installed = False
_signal: "Optional[int]" = None  # has faulthandler's handler; 0: none has


def watchdog(after: "Optional[float]", abort_after: "Optional[float]") -> None:
    """As pep788.watchdog."""
    if _core.INTERPRETER != 0:
        raise RuntimeError("the watchdog watches the end of the main interpreter; call watchdog() there")
    if after is None:
        if abort_after is not None:
            raise ValueError("abort_after needs after; None turns the watchdog off")
        _core.watchdog_set(0, 0)
        return
    after = _seconds("after", after)
    if abort_after is not None:
        abort_after = _seconds("abort_after", abort_after)
        if abort_after < after:
            raise ValueError(f"abort_after ({abort_after:g}) must not be less than after ({after:g})")
    _core.watchdog_set(after, abort_after or 0)
    _install()


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {type(value).__name__}")
    if not 0 < value <= _LONGEST:
        raise ValueError(f"{name} must be more than 0 and at most {_LONGEST:g} seconds, not {value!r}")
    return float(value)


# --- the start of finalization ------------------------------------------------------------------------------------


def _install() -> None:
    global _installed
    if _installed:
        return
    _installed = True
    # Here, not above: a program without threads need not load it. faulthandler is used in finalization only, but
    # imports may fail there.
    import faulthandler  # noqa: F401
    import threading

    atexit.register(_callbacks_run)
    threading._shutdown = _watched(threading._shutdown)  # type: ignore[attr-defined]
    if threading._SHUTTING_DOWN:  # type: ignore[attr-defined]
        _mark(_core.WATCHDOG_CALLBACKS)


def _watched(shutdown: "Callable[[], None]") -> "Callable[[], None]":
    import functools

    @functools.wraps(shutdown)
    def _shutdown() -> None:
        final = not _is_called_by_hand("_shutdown")
        if final:
            _mark(_core.WATCHDOG_JOINING)
        try:
            shutdown()
        finally:
            if final:
                _mark(_core.WATCHDOG_CALLBACKS)

    return _shutdown


def _callbacks_run() -> None:
    if not _is_called_by_hand("_run_exitfuncs"):
        _mark(_core.WATCHDOG_CALLBACKS)


def _is_called_by_hand(name: str) -> bool:
    """Whether Python code calls what CPython calls at the end, and lives on: tests, servers.

    Children of multiprocessing do not live on. Python code below a real end (of Py_Exit) does not name the function.
    """
    try:
        caller = sys._getframe(2)
    except ValueError:
        return False
    module = str(caller.f_globals.get("__name__"))
    return name in caller.f_code.co_names and not module.startswith("multiprocessing.")


def _mark(stage: int) -> None:
    global _signal
    try:
        if _signal is None:
            _signal = _register_dumper()
        _core.watchdog_mark(stage, _signal, _named_threads())
    except Exception as error:  # what helps to find a fault must not be one
        _warn(f"the end of this process is not watched: {type(error).__name__}: {error}")


def _register_dumper() -> int:
    """Have faulthandler install its handler for a signal that nobody uses; return it, 0 without one."""
    import faulthandler

    number = _core.watchdog_unused_signal()
    if number:
        try:
            faulthandler.register(number, file=2, all_threads=True)
        except (OSError, RuntimeError, ValueError):
            return 0
    return number


def _named_threads() -> bytes:
    """What nobody can ask threading for when the GIL is held for ever, as an array of `Named` in _watchdog.c."""
    import threading

    rows = []
    for thread in threading.enumerate():
        label = f"{'' if thread.daemon else 'non-'}daemon thread {thread.name!a}".encode("ascii")
        rows += [_word(thread.ident), _word(thread.native_id), label[:63].ljust(64, b"\0")]
    return b"".join(rows)


def _word(number: "Optional[int]") -> bytes:
    return (number or 0).to_bytes(8, sys.byteorder)


# --- the environment ----------------------------------------------------------------------------------------------


def _set_by_environment() -> None:
    after = _environment("PEP788_WATCHDOG")
    if after is None or _core.INTERPRETER != 0:
        return
    abort_after = _environment("PEP788_WATCHDOG_ABORT_AFTER")
    if abort_after is not None and abort_after < after:
        _warn(
            f"PEP788_WATCHDOG_ABORT_AFTER={abort_after:g} is less than PEP788_WATCHDOG={after:g}; it is ignored, "
            "give a larger number"
        )
        abort_after = None
    try:
        watchdog(after, abort_after)
    except RuntimeError as error:  # the import goes on
        _warn(str(error))


def _environment(name: str) -> "Optional[float]":
    """The seconds in a variable; None if it is unset, empty, 0 or (with a warning) no number of seconds."""
    text = os.environ.get(name, "").strip()
    if not text or text == "0":
        return None
    try:
        return _seconds(name, float(text))
    except ValueError:
        _warn(
            f"{name}={text!r} is not a number of seconds above 0 and up to {_LONGEST:g}; it is ignored, "
            "give a number like 10"
        )
        return None


def _warn(message: str) -> None:
    if sys.stderr is not None:
        print(f"pep788: {message}", file=sys.stderr)


_set_by_environment()
