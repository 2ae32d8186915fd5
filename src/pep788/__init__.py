"""PEP 788 for CPython 3.9-3.15: keep the interpreter alive while you need it.

``with pep788.guard():`` in a daemon thread: the interpreter is not finalized in
the middle of the block.  Once shutdown has begun, entering raises
``pep788.PythonFinalizationError`` instead.

For C and C++ this package ships one header; ``pep788.get_include()`` is the
folder that it is in.
"""

import os as _os

from ._core import PythonFinalizationError, View, guard, guard_count

__all__ = [
    "PythonFinalizationError",
    "View",
    "__version__",
    "get_cmake_dir",
    "get_include",
    "get_pkgconfig_dir",
    "guard",
    "guard_count",
]

__version__ = "0.1.0"


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
