"""PEP 788 for CPython 3.9-3.15: keep the interpreter alive while you need it.

``with pep788.guard():`` in a daemon thread: the interpreter is not finalized in
the middle of the block.  Once shutdown has begun, entering raises
``pep788.PythonFinalizationError`` instead.

``pep788.callback(...)`` makes a callback of ctypes or cffi safe to call on any
thread, at any time.
``pep788.watchdog()`` reports why a process does not end.

For C and C++ this package ships one header; ``pep788.get_include()`` is the
folder that it is in.
"""

import os as _os

try:
    from ._core import PythonFinalizationError, View, guard, guard_count
except ModuleNotFoundError as _error:
    if _error.name != f"{__name__}._core":
        raise
    _what = f"{__file__} was not built for this Python: python -m pip install pep788, or . in a checkout of it"
    raise ImportError(_what, name=_error.name) from None

__all__ = [
    "PythonFinalizationError",
    "View",
    "__version__",
    "callback",
    "get_cmake_dir",
    "get_include",
    "get_pkgconfig_dir",
    "guard",
    "guard_count",
    "watchdog",
]

__version__ = "0.1.0"

TYPE_CHECKING = False  # importing typing would cost more than all of this package
if TYPE_CHECKING:
    from typing import Optional, TypeVar

    _Function = TypeVar("_Function")


def callback(
    c_callback: "_Function", *, on_closed: object = ..., keep_thread_state: "bool | None" = None, forever: bool = False
) -> "_Function":
    """Return a native function pointer like `c_callback` that may be called on any thread, at any time.

    `c_callback` is a function pointer of ctypes (``CFUNCTYPE(...)(function)``) or of cffi (``ffi.callback``,
    ``extern "Python"``).  What is returned has the same type.  A call of it holds a guard of this interpreter while
    `c_callback` runs; one that comes when the interpreter is finalizing, or gone, returns `on_closed` and touches
    nothing of Python.  `on_closed` may only be left out if the function returns nothing.

    `keep_thread_state`: whether native threads keep their thread state between calls, which is much faster if they
    call often.  By default it is as without pep788: kept with cffi, a fresh one for each call with ctypes.
    `forever`: never free the function, for C libraries that cannot be told to stop calling.  Otherwise keep the
    returned object for as long as they may call it.
    """
    from . import _pointers

    result: _Function = _pointers.callback(c_callback, on_closed, keep_thread_state, forever)
    return result


def watchdog(after: "Optional[float]" = 10.0, *, abort_after: "Optional[float]" = None) -> None:
    """Report on stderr why the process has not ended ``after`` seconds after finalization began.

    The report names the stage of finalization, open guards, native threads and Python stacks; it is repeated with
    growing pauses.  ``abort_after`` seconds after finalization began the process is aborted, for a core file.
    Each call replaces the settings of the one before; ``watchdog(None)`` turns the watchdog off.
    Until finalization begins there is no thread.  The environment variables ``PEP788_WATCHDOG`` and
    ``PEP788_WATCHDOG_ABORT_AFTER`` do the same for a program that imports pep788.
    """
    from . import _watchdog

    _watchdog.watchdog(after, abort_after)


_HERE = _os.path.dirname(_os.path.abspath(__file__))


def get_include() -> str:
    """Return the folder to put on the compiler's include path for pep788.h."""
    return _os.path.join(_HERE, "include")


def get_cmake_dir() -> str:
    """Return the folder of pep788Config.cmake: what to give CMake as ``pep788_DIR``."""
    return _os.path.join(_HERE, "cmake")


def get_pkgconfig_dir() -> str:
    """Return the folder of pep788.pc, for ``PKG_CONFIG_PATH``."""
    return _os.path.join(_HERE, "pkgconfig")


if "PEP788_WATCHDOG" in _os.environ:
    from . import _watchdog as _watchdog
