"""The smallest files that name imported functions, in the formats of other systems than the one at hand."""

from __future__ import annotations

import struct
from typing import Sequence


def mach_o(names: Sequence[str]) -> bytes:
    """A 64-bit bundle whose symbol table has nothing but undefined symbols."""
    strings = b"\0" + b"".join(b"_" + name.encode() + b"\0" for name in names)
    symbols, at = b"", 1
    for name in names:
        symbols += struct.pack("<IBBHQ", at, 0x01, 0, 0, 0)
        at += len(name) + 2
    commands_size = 24 + 80
    symbols_at = 32 + commands_size
    symtab = struct.pack("<6I", 2, 24, symbols_at, len(names), symbols_at + len(symbols), len(strings))
    dysymtab = struct.pack("<20I", 11, 80, 0, 0, 0, 0, 0, len(names), *([0] * 12))
    header = struct.pack("<8I", 0xFEEDFACF, 0x0100000C, 0, 8, 2, commands_size, 0, 0)
    return header + symtab + dysymtab + symbols + strings


def universal(*images: bytes) -> bytes:
    """Mach-O files for several processors in one."""
    header, at, body = struct.pack(">II", 0xCAFEBABE, len(images)), 0x1000, b""
    for number, image in enumerate(images):
        header += struct.pack(">5I", (0x01000007, 0x0100000C)[number], 0, at + len(body), len(image), 12)
        body += image.ljust(-(-len(image) // 0x1000) * 0x1000, b"\0")
    return header.ljust(at, b"\0") + body


def pe(names: Sequence[str], library: str = "python312.dll") -> bytes:
    """A 64-bit DLL with one section, which holds one import table."""
    base, file_at = 0x1000, 0x200
    table_at = 40
    names_at = table_at + 8 * (len(names) + 1)
    hints, offsets = b"", []
    for name in names:
        offsets.append(base + names_at + len(hints))
        entry = b"\0\0" + name.encode() + b"\0"
        hints += entry + b"\0" * (len(entry) % 2)
    library_at = names_at + len(hints)
    descriptor = struct.pack("<5I", base + table_at, 0, 0, base + library_at, base + table_at) + b"\0" * 20
    thunks = b"".join(struct.pack("<Q", offset) for offset in offsets) + b"\0" * 8
    section = descriptor + thunks + hints + library.encode() + b"\0"
    section = section.ljust(0x200, b"\0")
    assert len(section) == 0x200
    directories = struct.pack("<4I", 0, 0, base, len(descriptor)) + b"\0" * 8 * 14
    optional = struct.pack("<HBB9I6H4I2H4Q2I", 0x20B, 14, 0, 0, 0x200, 0, 0, 0, 0, 0, 0x1000, 0x200, 6, 0, 0, 0, 6, 0, 0,
                           0x2000, 0x200, 0, 2, 0, 0x100000, 0x1000, 0x100000, 0x1000, 0, 16)  # fmt: skip
    optional = optional[:24] + struct.pack("<Q", 0x180000000) + optional[32:]
    coff = struct.pack("<2H3I2H", 0x8664, 1, 0, 0, 0, len(optional) + len(directories), 0x2022)
    row = b".rdata\0\0" + struct.pack("<6I2HI", 0x200, base, 0x200, file_at, 0, 0, 0, 0, 0x40000040)
    dos = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    return (dos + b"PE\0\0" + coff + optional + directories + row).ljust(file_at, b"\0") + section
