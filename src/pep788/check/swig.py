"""SWIG interface files: the C code in `%{ ... %}` blocks, with everything else blanked out."""

from __future__ import annotations

import re

from .preprocessor import blank

_CODE = re.compile(rb"%\{(.*?)%\}", re.DOTALL)


def c_code(data: bytes) -> bytes:
    """The same bytes at the same places, but only those that SWIG copies into its output."""
    outside = []
    at = 0
    for found in _CODE.finditer(data):
        outside.append((at, found.start(1)))
        at = found.end(1)
    outside.append((at, len(data)))
    return blank(data, outside)
