"""PEP 788 for CPython 3.9-3.15: keep the interpreter alive while you need it.

``with pep788.guard():`` in a daemon thread: the interpreter is not finalized in
the middle of the block.  Once shutdown has begun, entering raises
``pep788.PythonFinalizationError`` instead.

``pep788.watchdog()`` reports why a process does not end.

For C and C++ this package ships one header; ``pep788.get_include()`` is the
folder that it is in.
"""

import os as _os

from ._core import PythonFinalizationError, View, guard, guard_count
from ._watchdog import watchdog

__all__ = [
    "PythonFinalizationError",
    "View",
    "__version__",
    "get_include",
    "guard",
    "guard_count",
    "watchdog",
]

__version__ = "0.1.0"


def get_include() -> str:
    """Return the folder to put on the compiler's include path for pep788.h."""
    return _os.path.join(_os.path.dirname(_os.path.abspath(__file__)), "include")
