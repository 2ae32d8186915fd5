"""What the tests of pep788.callback share: the C library that calls back, and a child that can use both."""

from __future__ import annotations

import functools
import pathlib
import textwrap

import pytest
import support
from installed import build_package

needs_ffi = pytest.mark.skipif(not support.has_ffi(), reason="libffi's headers are not installed: no pep788.callback")

PRELUDE = """
import ctypes, gc, sys, threading
import pep788
library = ctypes.CDLL({library!r})

def address_of(pointer):
    # Not ctypes.cast: it makes the pointer a part of a reference cycle.
    return int.from_bytes(bytes(pointer), sys.byteorder)

"""


def package() -> pathlib.Path:
    return build_package(callback=True)


@functools.lru_cache(maxsize=None)
def library() -> pathlib.Path:
    return support.build_library("callback", [pathlib.Path(__file__).with_name("callback.c")])


def child(code: str, **options: object) -> support.Result:
    prelude = PRELUDE.format(library=str(library()))
    return support.run_child(prelude + textwrap.dedent(code), path=[package()], **options)  # type: ignore[arg-type]
