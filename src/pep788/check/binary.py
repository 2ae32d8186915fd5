"""Extension modules and shared libraries as files: which functions they import."""

from __future__ import annotations

import dataclasses
import io
import os
import tempfile
from typing import FrozenSet, Iterator


@dataclasses.dataclass(frozen=True)
class Binary:
    """The undefined symbols of a shared object, without the leading underscore of Mach-O."""

    path: str
    format: str
    imports: FrozenSet[str]


class CannotRead(Exception):
    """Not an ELF, PE or Mach-O file, or a damaged one."""


def read(path: str, data: bytes) -> Binary:
    """Look at the file's magic number, not its name."""
    try:
        if data.startswith(b"\x7fELF"):
            return Binary(path, "ELF", frozenset(_elf(data)))
        if data.startswith(b"MZ"):
            return Binary(path, "PE", frozenset(_pe(data)))
        if data[:4] in _MACH_O:
            return Binary(path, "Mach-O", frozenset(_mach_o(data)))
    except Exception as error:  # parsers of damaged files raise whatever comes first
        raise CannotRead(f"damaged: {type(error).__name__}: {error}"[:200]) from None
    raise CannotRead("neither ELF, PE nor Mach-O")


_MACH_O = (b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xfe\xed\xfa\xcf", b"\xfe\xed\xfa\xce", b"\xca\xfe\xba\xbe")


def _elf(data: bytes) -> Iterator[str]:
    from elftools.elf.dynamic import DynamicSegment
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    file = ELFFile(io.BytesIO(data))
    for segment in file.iter_segments():
        if isinstance(segment, DynamicSegment):  # there also where sections were stripped
            yield from (s.name for s in segment.iter_symbols() if s["st_shndx"] == "SHN_UNDEF" and s.name)
            return
    for section in file.iter_sections():
        if isinstance(section, SymbolTableSection):
            yield from (s.name for s in section.iter_symbols() if s["st_shndx"] == "SHN_UNDEF" and s.name)


def _pe(data: bytes) -> Iterator[str]:
    import pefile

    file = pefile.PE(data=data, fast_load=True)
    tables = ("IMAGE_DIRECTORY_ENTRY_IMPORT", "IMAGE_DIRECTORY_ENTRY_DELAY_IMPORT")
    file.parse_data_directories([pefile.DIRECTORY_ENTRY[name] for name in tables])
    for table in ("DIRECTORY_ENTRY_IMPORT", "DIRECTORY_ENTRY_DELAY_IMPORT"):
        for library in getattr(file, table, ()):
            yield from (entry.name.decode("ascii", "replace") for entry in library.imports if entry.name)


def _mach_o(data: bytes) -> Iterator[str]:
    from macholib.MachO import MachO
    from macholib.SymbolTable import SymbolTable

    with tempfile.TemporaryDirectory() as folder:  # macholib reads files only
        path = os.path.join(folder, "image")
        with open(path, "wb") as file:
            file.write(data)
        image = MachO(path, allow_unknown_load_commands=True)
        for header in image.headers:
            table = SymbolTable(image, header)
            for _, name in getattr(table, "undefsyms", ()):
                text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
                yield text[1:] if text.startswith("_") else text
