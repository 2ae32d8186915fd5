"""Extension modules and shared libraries as files: which functions they import."""

from __future__ import annotations

import dataclasses
import io
import os
import tempfile
import re
from typing import FrozenSet, Iterator, List

from .model import Span


@dataclasses.dataclass(frozen=True)
class Binary:
    """The undefined symbols of a shared object, without the leading underscore of Mach-O."""

    path: str
    format: str
    imports: FrozenSet[str]
    has_pep788: bool = False
    """It has a copy of pep788.h in it, so what it imports is that header's, too."""

    @property
    def span(self) -> Span:
        return Span(self.path, 0, 0, 0, 0, 0, 0)

    @property
    def python(self) -> str:
        """The version it was built for by its name or its wheel's: "3.12", "3.9+" for abi3, "" if that is not said."""
        abi3 = re.search(r"-cp3(\d+)-abi3-", self.path)
        if abi3 or ".abi3." in self.path:
            return f"3.{abi3.group(1)}+" if abi3 else ""
        exact = re.search(r"cpython-3(\d+)|\.cp3(\d+)-win|-cp3(\d+)-cp3", self.path)
        return f"3.{next(filter(None, exact.groups()))}" if exact else ""


class CannotRead(Exception):
    """Not an ELF, PE or Mach-O file, or a damaged one."""


def read(path: str, data: bytes) -> Binary:
    """Look at the file's magic number, not its name."""
    ours = b"pep788.coordinator." in data
    try:
        if data.startswith(b"\x7fELF"):
            return Binary(path, "ELF", frozenset(_elf(data)), ours)
        if data.startswith(b"MZ"):
            return Binary(path, "PE", frozenset(_pe(data)), ours)
        if data[:4] in _MACH_O:
            return Binary(path, "Mach-O", frozenset(_mach_o(data)), ours)
    except Exception as error:  # parsers of damaged files raise whatever comes first
        raise CannotRead(f"damaged: {type(error).__name__}: {error}"[:200]) from None
    raise CannotRead("neither ELF, PE nor Mach-O")


_MACH_O = (
    b"\xcf\xfa\xed\xfe",
    b"\xce\xfa\xed\xfe",
    b"\xfe\xed\xfa\xcf",
    b"\xfe\xed\xfa\xce",
    b"\xca\xfe\xba\xbe",  # several architectures in one file
    b"\xca\xfe\xba\xbf",
)


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
    tables = [pefile.DIRECTORY_ENTRY["IMAGE_DIRECTORY_ENTRY" + name] for name in ("_IMPORT", "_DELAY_IMPORT")]
    file.parse_data_directories(tables)
    if file.OPTIONAL_HEADER.DATA_DIRECTORY[tables[0]].Size and not hasattr(file, "DIRECTORY_ENTRY_IMPORT"):
        raise ValueError("its import table cannot be read")
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


# --- what the imports mean --------------------------------------------------------------------------------------

_STARTS = (
    "pthread_create",
    "thrd_create",
    "PyThread_start_new_thread",
    "PyThread_start_joinable_thread",
    "CreateThread",
    "CreateThreadpoolTimer",
    "CreateThreadpoolWork",
    "QueueUserWorkItem",
    "RegisterWaitForSingleObject",
    "_beginthread",
    "_beginthreadex",
    "_Thrd_start",
    "dispatch_async",
    "dispatch_async_f",
    "g_thread_new",
    "uv_thread_create",
)
_CPP_STARTS = "_ZNSt6thread15_M_start_thread"  # its argument differs from one libstdc++ to another
_SHOWN = {"_Thrd_start": "std::thread"}
RESTORES = ("PyEval_AcquireThread", "PyEval_RestoreThread")


def threads(binary: Binary) -> List[str]:
    """The functions it imports that start threads; `PyThread_start_new_thread` makes threads Python knows as little."""
    found = [_SHOWN.get(name, name) for name in _STARTS if name in binary.imports]
    return found + ["std::thread"] * any(name.startswith(_CPP_STARTS) for name in binary.imports)


def attaching(binary: Binary) -> List[str]:
    """The functions it imports that attach a thread that Python did not make."""
    if "PyGILState_Ensure" in binary.imports:
        return ["PyGILState_Ensure"]
    by_hand = [n for n in ("PyEval_AcquireThread", "PyEval_RestoreThread", "PyThreadState_Swap") if n in binary.imports]
    return ["PyThreadState_New", by_hand[0]] if by_hand and "PyThreadState_New" in binary.imports else []


def minor_version(binary: Binary) -> int:
    """12 for 3.12; 0 if the file is for several versions, or does not say."""
    exact = re.fullmatch(r"3\.(\d+)", binary.python)
    return int(exact.group(1)) if exact else 0


def late(binary: Binary, attach: List[str]) -> str:
    """What happens to a thread that attaches once finalization has begun, on the version the binary is for."""
    by_hand = "PyThreadState_New" in attach
    outcomes = {
        (9, 12): "ended inside its own frames, and crashes the process later on",
        (13, 13): "ended inside its own frames up to 3.13.7, frozen from 3.13.8 on, and crashes the process later on",
        (14, 14): "let in while Python is torn down if it is new, frozen if not, and crashes the process later on",
        (15, 99): "let in while Python is torn down, and after it" if by_hand else "frozen for ever",
    }
    minor = minor_version(binary)
    if minor:
        for (first, last), outcome in outcomes.items():
            if first <= minor <= last:
                return f"On {binary.python} a thread that is too late is {outcome}."
    return (
        "A thread that is too late is ended inside its own frames up to 3.13.7, frozen from 3.13.8 on, on 3.14 let "
        "in while Python is torn down; up to 3.14 it crashes the process after that."
    )


def late_return(binary: Binary) -> str:
    """What happens to a daemon thread that comes back from a wait once finalization has begun."""
    ended = "ended inside its own frames (a noexcept frame among them aborts the process)"
    minor = minor_version(binary)
    if 9 <= minor <= 12:
        return f"On {binary.python} a daemon thread that comes back too late is {ended}."
    if minor >= 14:
        return f"On {binary.python} a daemon thread that comes back too late is frozen for ever."
    return f"A daemon thread that comes back too late is {ended} up to 3.13.7, frozen for ever from 3.13.8 on."
