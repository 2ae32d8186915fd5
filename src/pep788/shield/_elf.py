"""Find the import slots of a loaded ELF object: where it keeps the addresses of functions of others.

Nothing here reads memory by itself. An `Image` has a function that does, and refuses whatever is not inside a readable
segment, so that a damaged object ends in `ElfError` and not in a crash.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # every program that is shielded waits for this import, and typing takes milliseconds
    from typing import Callable, Dict, Iterable, Iterator, List, Sequence, Tuple

PT_LOAD, PT_DYNAMIC, PT_GNU_RELRO = 1, 2, 0x6474E552
PF_R, PF_W, PF_X = 4, 2, 1

DT_NULL, DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_RELAENT = 0, 2, 5, 6, 7, 8, 9
DT_STRSZ, DT_SYMENT, DT_REL, DT_RELSZ, DT_RELENT, DT_PLTREL, DT_JMPREL = 10, 11, 17, 18, 19, 20, 23
DT_RELACOUNT, DT_RELCOUNT = 0x6FFFFFF9, 0x6FFFFFFA

SHN_UNDEF = 0

WORD = 8
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")  # type, flags, offset, vaddr, paddr, filesz, memsz, align
SYMBOL = struct.Struct("<IBBHQQ")  # name, info, other, section, value, size
RELOCATION = {DT_RELA: struct.Struct("<QQq"), DT_REL: struct.Struct("<QQ")}  # offset, info, addend

DYNAMIC_MAX = 1 << 16  # bytes; objects have some 500
TABLE_MAX = 1 << 30


class ElfError(Exception):
    """The object is not laid out in a way that is understood; the text says what is not."""


class Machine:
    """Relocation types of one processor that name an import."""

    def __init__(self, jump_slot: int, glob_dat: int, absolute: int) -> None:
        self.kinds = {jump_slot: "JUMP_SLOT", glob_dat: "GLOB_DAT", absolute: "absolute"}


MACHINES = {
    "x86_64": Machine(jump_slot=7, glob_dat=6, absolute=1),
    "aarch64": Machine(jump_slot=1026, glob_dat=1025, absolute=257),
}


class Segment:
    """One program header, at its address in memory."""

    def __init__(self, type: int, flags: int, start: int, size: int) -> None:
        self.type, self.flags, self.start, self.size = type, flags, start, size

    def holds(self, address: int, size: int = 1) -> bool:
        return self.start <= address and address + size <= self.start + self.size


class Slot:
    """One word that holds the address of an imported function."""

    def __init__(self, symbol: str, address: int, kind: str, value: int, read_only: bool) -> None:
        self.symbol = symbol
        self.address = address  # where it is in memory
        self.kind = kind  # JUMP_SLOT, GLOB_DAT, or absolute: a pointer in a table of the object's own
        self.value = value  # what it holds
        self.read_only = read_only  # RELRO: its page is protected once the object is loaded


class Image:
    """A loaded object: its segments, at addresses in memory, and how to read them."""

    def __init__(self, base: int, segments: Sequence[Segment], read: Callable[[int, int], bytes], page: int) -> None:
        self.base = base
        self.segments = segments
        self._read = read
        self._page = page

    def read(self, address: int, size: int) -> bytes:
        """Memory of a readable segment."""
        if not 0 <= size <= TABLE_MAX:
            raise ElfError(f"a table of {size} bytes")
        for segment in self.segments:
            if segment.type == PT_LOAD and segment.flags & PF_R and segment.holds(address, size):
                return self._read(address, size)
        raise ElfError(f"{size} bytes at {address:#x} are outside its readable segments")

    def rest(self, address: int, end: int) -> bytes:
        """From here to `end`, or to the end of the readable segment, whichever is first."""
        for segment in self.segments:
            if segment.type == PT_LOAD and segment.flags & PF_R and segment.holds(address):
                limit = segment.start + segment.size
                return self.read(address, (min(end, limit) if end > address else limit) - address)
        raise ElfError(f"{address:#x} is outside its readable segments")

    def is_code(self, address: int) -> bool:
        return any(s.type == PT_LOAD and s.flags & PF_X and s.holds(address) for s in self.segments)

    def holds(self, address: int) -> bool:
        return any(s.type == PT_LOAD and s.holds(address) for s in self.segments)

    def is_read_only(self, slot: int) -> bool:
        """Whether the loader has protected the slot: glibc and musl round both ends of RELRO down to a page."""
        for segment in self.segments:
            if segment.type == PT_GNU_RELRO:
                start, end = (point - point % self._page for point in (segment.start, segment.start + segment.size))
                if start <= slot < end:
                    return True
        return False

    def is_writable(self, slot: int) -> bool:
        return any(s.type == PT_LOAD and s.flags & PF_W and s.holds(slot, WORD) for s in self.segments)

    def pointer(self, value: int) -> int:
        """An address out of the dynamic section: glibc adds the base in place, musl does not."""
        absolute, relative = self.holds(value), self.holds(self.base + value)
        if absolute and relative and self.base:
            raise ElfError(f"{value:#x} in its dynamic section can mean two things")
        if absolute:
            return value
        if relative:
            return self.base + value
        raise ElfError(f"{value:#x} in its dynamic section is outside its segments")


def segments_of(headers: bytes, base: int) -> List[Segment]:
    """The program headers, with addresses in memory."""
    if len(headers) % PROGRAM_HEADER.size:
        raise ElfError("its program headers are not those of a 64-bit object")
    found = []
    for kind, flags, _, vaddr, _, _, memsz, _ in PROGRAM_HEADER.iter_unpack(headers):
        found.append(Segment(kind, flags, base + vaddr, memsz))
    return found


class Dynamic:
    """The parts of the dynamic section that lead to imports."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.entries = _dynamic_entries(image)
        size = self._need(DT_STRSZ, "size of its string table")
        self.strings = image.read(image.pointer(self._need(DT_STRTAB, "string table")), size)
        self.symbols = image.pointer(self._need(DT_SYMTAB, "symbol table"))
        if self.entries.get(DT_SYMENT, SYMBOL.size) != SYMBOL.size:
            raise ElfError("its symbols have another size")

    def _need(self, tag: int, what: str) -> int:
        if tag not in self.entries:
            raise ElfError(f"it has no {what}")
        return self.entries[tag]

    def offsets_of(self, names: Iterable[str]) -> Dict[int, str]:
        """Where these names are in the string table; a linker may let one string end in another."""
        found = {}
        for name in names:
            wanted = name.encode() + b"\0"
            at = self.strings.find(wanted)
            while at >= 0:
                found[at] = name
                at = self.strings.find(wanted, at + 1)
        return found

    def tables(self) -> Iterator[Tuple[int, bytes]]:
        """(DT_RELA or DT_REL, entries), without the relative ones, which come first and name no symbol."""
        for kind, size, count in ((DT_RELA, DT_RELASZ, DT_RELACOUNT), (DT_REL, DT_RELSZ, DT_RELCOUNT)):
            if kind in self.entries:
                skipped = self.entries.get(count, 0) * RELOCATION[kind].size
                yield kind, self._table(kind, kind, size, skipped)
        if DT_JMPREL in self.entries:
            kind = self._need(DT_PLTREL, "kind of its PLT relocations")
            if kind not in RELOCATION:
                raise ElfError(f"its PLT relocations are of kind {kind}")
            yield kind, self._table(kind, DT_JMPREL, DT_PLTRELSZ, 0)

    def _table(self, kind: int, place: int, size: int, skipped: int) -> bytes:
        entry = RELOCATION[kind].size
        if self.entries.get(DT_RELAENT if kind == DT_RELA else DT_RELENT, entry) != entry:
            raise ElfError("its relocations have another size")
        total = self._need(size, "size of its relocations")
        if total % entry or skipped > total:
            raise ElfError(f"{total} bytes of relocations, {skipped} of them relative")
        return self.image.read(self.image.pointer(self.entries[place]) + skipped, total - skipped)

    def imports(self, offsets: Dict[int, str]) -> Dict[int, str]:
        """Places in the symbol table of imports whose names are at these offsets.

        No entry tells how long the table is: it is searched up to the string table, which linkers put behind it, or
        to the end of its segment. What matches behind its end does no harm: no relocation names it.
        """
        table = self.image.rest(self.symbols, self.image.pointer(self.entries[DT_STRTAB]))
        found = {}
        for offset, name in offsets.items():
            for at in _find_aligned(table, struct.pack("<I", offset), 0, SYMBOL.size):
                if at and SYMBOL.unpack_from(table, at)[3] == SHN_UNDEF:  # the first entry is none
                    found[at // SYMBOL.size] = name
        return found


def _find_aligned(table: bytes, wanted: bytes, offset: int, size: int) -> Iterator[int]:
    """Offsets of the whole entries of `size` bytes that hold `wanted` at `offset`."""
    at = table.find(wanted)
    while at >= 0:
        start = at - offset
        if start >= 0 and start % size == 0 and start + size <= len(table):
            yield start
        at = table.find(wanted, at + 1)


def _dynamic_entries(image: Image) -> Dict[int, int]:
    sections = [segment for segment in image.segments if segment.type == PT_DYNAMIC]
    if len(sections) != 1:
        raise ElfError(f"it has {len(sections)} dynamic sections")
    size = min(sections[0].size, DYNAMIC_MAX)
    data = image.read(sections[0].start, size - size % (2 * WORD))
    entries: Dict[int, int] = {}
    for tag, value in struct.iter_unpack("<QQ", data):
        if tag == DT_NULL:
            break
        entries[tag] = value
    return entries


def find_slots(dynamic: Dynamic, names: Iterable[str], machine: Machine) -> List[Slot]:
    """All slots of the imports of these names."""
    offsets = dynamic.offsets_of(names)
    if not offsets:
        return []
    imports = dynamic.imports(offsets)
    found = []
    for kind, table in dynamic.tables():
        entry = RELOCATION[kind]
        for index, name in imports.items():
            for at in _find_aligned(table, struct.pack("<I", index), WORD + 4, entry.size):
                place, info, *addend = entry.unpack_from(table, at)
                type_ = info & 0xFFFFFFFF
                if type_ not in machine.kinds or any(addend):
                    raise ElfError(f"{name} is imported by a relocation of type {type_} with the addend {addend}")
                found.append(_slot(dynamic.image, name, machine.kinds[type_], dynamic.image.base + place))
    return found


def _slot(image: Image, name: str, kind: str, address: int) -> Slot:
    if address % WORD or not image.is_writable(address):
        raise ElfError(f"the slot of {name} at {address:#x} is not in its data")
    value = int.from_bytes(image.read(address, WORD), "little")
    return Slot(name, address, kind, value, image.is_read_only(address))
