"""What the tests of pep788.callback share: the C library that calls back, and a child that can use both."""

from __future__ import annotations

import functools
import hashlib
import pathlib
import shutil
import tempfile
import textwrap

import pytest
import support
from installed import CORE

needs_ffi = pytest.mark.skipif(not support.has_ffi(), reason="libffi's headers are not installed: no pep788.callback")

SOURCE = support.REPO / "src" / "pep788"
PRELUDE = """
import ctypes, gc, sys, threading
import pep788
library = ctypes.CDLL({library!r})

def address_of(pointer):
    # Not ctypes.cast: it makes the pointer a part of a reference cycle.
    return int.from_bytes(bytes(pointer), sys.byteorder)

"""


@functools.lru_cache(maxsize=None)
def package() -> pathlib.Path:
    """Folder to put on the path so that `import pep788` finds this tree, not an installed copy."""
    modules = [
        support.build_extension("_core", CORE, defines=["PEP788_ALWAYS"]),
        support.build_extension("_callback", [SOURCE / "_callback.c"], defines=["PEP788_ALWAYS"], ldflags=["-lffi"]),
    ]
    files = [*sorted(SOURCE.glob("*.py")), *(path for folder in modules for path in folder.iterdir())]
    seen = hashlib.sha256()
    for path in files:
        seen.update(str(path).encode() + path.read_bytes())
    folder = support.BUILD / f"callback-package-{seen.hexdigest()[:16]}"
    if not folder.is_dir():
        scratch = pathlib.Path(tempfile.mkdtemp(prefix="callback-package-", dir=support.BUILD))
        (scratch / "pep788").mkdir()
        for path in files:
            shutil.copy(path, scratch / "pep788")
        support._publish(scratch, folder)
    return folder


@functools.lru_cache(maxsize=None)
def library() -> pathlib.Path:
    return support.build_library("callback", [pathlib.Path(__file__).with_name("callback.c")])


def child(code: str, **options: object) -> support.Result:
    prelude = PRELUDE.format(library=str(library()))
    return support.run_child(prelude + textwrap.dedent(code), path=[package()], **options)  # type: ignore[arg-type]
