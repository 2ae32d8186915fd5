"""How the shield finds import slots: against readelf, on objects made up here, and on damaged ones."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
from types import ModuleType
from typing import Dict, List, NamedTuple, Set, Tuple

import pytest
import support

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ELF objects of the platform are read")

PAGE = 4096
NAMES = ("PyGILState_Ensure", "PyGILState_Release", "PyEval_RestoreThread")


def _load() -> ModuleType:
    """The one file, which needs nothing of the package."""
    path = support.REPO / "src" / "pep788" / "shield" / "_elf.py"
    spec = importlib.util.spec_from_file_location("pep788_elf", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


elf = _load()
X86_64 = elf.MACHINES["x86_64"]


def image_of(memory: bytes, base: int, segments: List[object]) -> object:
    def read(address: int, size: int) -> bytes:
        start = address - base
        assert 0 <= start and start + size <= len(memory), "read outside the object"
        return memory[start : start + size]

    return elf.Image(base, segments, read, PAGE)


def find(image: object, machine: object = X86_64, names: Tuple[str, ...] = NAMES) -> List[object]:
    return elf.find_slots(elf.Dynamic(image), names, machine)


# --- objects of the compiler ----------------------------------------------------------------------------------

SOURCE = """
#include <Python.h>
void *table[] = {(void *)PyEval_RestoreThread};
void call(void) { PyGILState_Release(PyGILState_Ensure()); }
PyMODINIT_FUNC PyInit_slots(void) { return NULL; }
"""
FLAGS = {
    "lazy": ["-Wl,-z,lazy"],
    "bound at once, read-only": ["-Wl,-z,now", "-Wl,-z,relro"],
    "without a PLT": ["-fno-plt"],
    "hash table of the old kind": ["-Wl,--hash-style=sysv"],
}


def mapped(path: pathlib.Path) -> Made:
    """The object as a loader maps it at 0, before it is relocated."""
    data = path.read_bytes()
    offset, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    headers = data[offset : offset + size * count]
    segments = elf.segments_of(headers, 0)
    memory = bytearray(max(segment.start + segment.size for segment in segments if segment.type == elf.PT_LOAD))
    for kind, _, at, start, _, in_file, _, _ in elf.PROGRAM_HEADER.iter_unpack(headers):
        if kind == elf.PT_LOAD:
            memory[start : start + in_file] = data[at : at + in_file]
    return Made(memory, segments)


def readelf(path: pathlib.Path) -> Set[Tuple[str, int, str]]:
    text = subprocess.run(["readelf", "-rW", path], stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = re.findall(r"^([0-9a-f]+)\s+[0-9a-f]+\s+R_\w+?_(JUMP_SLOT?|JUMP_SLO|GLOB_DAT|64|ABS64)\s+\w+\s+(\w+)", text, re.M)
    kinds = {"64": "absolute", "ABS64": "absolute", "GLOB_DAT": "GLOB_DAT"}
    return {(name, int(at, 16), kinds.get(kind, "JUMP_SLOT")) for at, kind, name in rows if name in NAMES}


@pytest.fixture(params=list(FLAGS))
def object_file(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path:
    source = tmp_path / "slots.c"
    source.write_text(SOURCE)
    folder = support.build_extension("slots", [source], extra=FLAGS[request.param])
    return folder / ("slots" + sysconfig.get_config_var("EXT_SUFFIX"))


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf to compare with")
def test_the_slots_are_those_that_readelf_lists(object_file: pathlib.Path) -> None:
    machine = elf.MACHINES[os.uname().machine]
    found = {(slot.symbol, slot.address, slot.kind) for slot in found_in(mapped(object_file), machine, 0)}
    assert found == readelf(object_file)
    assert {name for name, _, _ in found} == set(NAMES)


# --- objects made up here -------------------------------------------------------------------------------------


class Made(NamedTuple):
    memory: bytearray
    segments: List[object]


def make(
    kind: int = 7,
    *,
    base: int = 0x10000,
    rel: bool = False,
    adjusted: bool = True,
    addend: int = 0,
    defined: bool = False,
    **tags: int,
) -> Made:
    """An object with one import, PyGILState_Ensure, and one slot for it. `adjusted`: as glibc leaves the pointers."""
    memory = bytearray(3 * PAGE)
    strings = b"\0_PyGILState_Ensure\0"  # the wanted name is the end of a longer one, as linkers merge them
    at = {"strings": 0x400, "symbols": 0x100, "relocations": 0x600, "slot": 2 * PAGE + 0x40, "dynamic": PAGE}
    memory[0x400 : 0x400 + len(strings)] = strings
    symbols = bytes(elf.SYMBOL.size) + elf.SYMBOL.pack(2, 0x12, 0, 7 if defined else 0, 0, 0)
    memory[0x100 : 0x100 + len(symbols)] = symbols
    info = 1 << 32 | kind
    entry = struct.pack("<QQ", at["slot"], info) if rel else struct.pack("<QQq", at["slot"], info, addend)
    memory[0x600 : 0x600 + len(entry)] = entry
    moved = base if adjusted else 0
    dynamic: Dict[int, int] = {
        elf.DT_STRTAB: moved + at["strings"],
        elf.DT_STRSZ: len(strings),
        elf.DT_SYMTAB: moved + at["symbols"],
        elf.DT_JMPREL: moved + at["relocations"],
        elf.DT_PLTRELSZ: len(entry),
        elf.DT_PLTREL: elf.DT_REL if rel else elf.DT_RELA,
    }
    dynamic.update({getattr(elf, tag): value for tag, value in tags.items()})
    packed = b"".join(struct.pack("<QQ", *item) for item in dynamic.items()) + bytes(16)
    memory[PAGE : PAGE + len(packed)] = packed
    struct.pack_into("<Q", memory, at["slot"], 0x1234)
    segments = [
        elf.Segment(elf.PT_LOAD, elf.PF_R | elf.PF_X, base, PAGE),
        elf.Segment(elf.PT_LOAD, elf.PF_R | elf.PF_W, base + PAGE, 2 * PAGE),
        elf.Segment(elf.PT_DYNAMIC, elf.PF_R | elf.PF_W, base + PAGE, len(packed)),
        elf.Segment(elf.PT_GNU_RELRO, elf.PF_R, base + PAGE, PAGE + 0x48),
    ]
    return Made(memory, segments)


def found_in(made: Made, machine: object = X86_64, base: int = 0x10000) -> List[object]:
    return find(image_of(bytes(made.memory), base, made.segments), machine)


@pytest.mark.parametrize("rel", [False, True], ids=["RELA", "REL"])
@pytest.mark.parametrize("adjusted", [True, False], ids=["glibc", "musl"])
@pytest.mark.parametrize("machine, kind", [("x86_64", 7), ("x86_64", 6), ("aarch64", 1026), ("aarch64", 1025)])
def test_one_slot_is_found_in_every_form(machine: str, kind: int, adjusted: bool, rel: bool) -> None:
    (slot,) = found_in(make(kind, rel=rel, adjusted=adjusted), elf.MACHINES[machine])
    assert (slot.symbol, slot.address, slot.value) == ("PyGILState_Ensure", 0x10000 + 2 * PAGE + 0x40, 0x1234)
    assert not slot.read_only, "RELRO ends at a page, rounded down"


def test_a_function_of_its_own_is_no_import() -> None:
    assert found_in(make(defined=True)) == []


@pytest.mark.parametrize(
    "made, complaint",
    [
        (make(37), "relocation of type 37"),
        (make(addend=8), "the addend [8]"),
        (make(DT_PLTREL=99), "of kind 99"),
        (make(DT_PLTRELSZ=23), "23 bytes of relocations"),
        (make(DT_SYMENT=16), "another size"),
        (make(DT_STRTAB=1 << 40), "outside its segments"),
        (make(DT_STRSZ=1 << 20), "outside its readable segments"),
        (make(DT_STRSZ=1 << 60), "a table of"),
        (make(DT_RELA=0x10600), "no size of its relocations"),
    ],
)
def test_what_is_not_understood_is_left_alone(made: Made, complaint: str) -> None:
    with pytest.raises(elf.ElfError, match=re.escape(complaint)):
        found_in(made)


def test_a_slot_in_code_is_refused() -> None:
    made = make()
    struct.pack_into("<Q", made.memory, 0x600, 0x50)
    with pytest.raises(elf.ElfError, match="not in its data"):
        found_in(made)


# --- damage ---------------------------------------------------------------------------------------------------


def test_damaged_objects_end_in_an_error_or_in_slots_of_their_own_data() -> None:
    chance = random.Random(788)
    outcomes = set()
    for _ in range(support.tries(3000)):
        made = make(rel=chance.random() < 0.5, adjusted=chance.random() < 0.5)
        used = [*range(0x100, 0x130), *range(0x400, 0x414), *range(0x600, 0x618), *range(PAGE, PAGE + 112)]
        for _ in range(chance.choice([1, 2, 8])):
            made.memory[chance.choice(used)] = chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])
        try:
            slots = found_in(made)
        except elf.ElfError:
            outcomes.add("error")
            continue
        outcomes.add(len(slots))
        for slot in slots:
            assert slot.symbol in NAMES
            assert 0x10000 + PAGE <= slot.address <= 0x10000 + 3 * PAGE - 8
    assert {"error", 0, 1} <= outcomes


def test_damaged_objects_of_the_compiler_end_in_an_error_or_in_slots_of_their_own_data(object_file: pathlib.Path) -> None:
    """Bytes of the tables that are read: the dynamic section, and what it leads to."""
    chance = random.Random(788)
    machine = elf.MACHINES[os.uname().machine]
    whole = mapped(object_file)
    image = image_of(bytes(whole.memory), 0, whole.segments)
    (section,) = [segment for segment in whole.segments if segment.type == elf.PT_DYNAMIC]
    dynamic = elf.Dynamic(image)
    starts = [section.start, dynamic.symbols, *(dynamic.entries[tag] for tag in (elf.DT_RELA, elf.DT_JMPREL) if tag in dynamic.entries)]
    writable = [s for s in whole.segments if s.type == elf.PT_LOAD and s.flags & elf.PF_W]
    outcomes = set()
    for _ in range(support.tries(400)):
        made = Made(bytearray(whole.memory), whole.segments)
        for _ in range(chance.choice([1, 2, 8])):
            made.memory[chance.choice(starts) + chance.randrange(240)] = chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])
        try:
            slots = found_in(made, machine, 0)
        except elf.ElfError:
            outcomes.add("error")
            continue
        outcomes.add("slots")
        for slot in slots:
            assert slot.symbol in NAMES
            assert slot.address % elf.WORD == 0 and any(s.holds(slot.address, elf.WORD) for s in writable)
    assert outcomes == {"error", "slots"}


def test_damaged_program_headers_end_in_an_error_or_in_nothing() -> None:
    chance = random.Random(3788)
    headers = b"".join(
        elf.PROGRAM_HEADER.pack(s.type, s.flags, 0, s.start - 0x10000, 0, s.size, s.size, PAGE) for s in make().segments
    )
    memory = bytes(make().memory)

    def read(address: int, size: int) -> bytes:
        """Segments that lie are the loader's own: it has mapped what they say, so reading gives something."""
        return (memory + bytes(size))[max(0, address - 0x10000) :][:size] if size < 1 << 20 else b""

    for _ in range(support.tries(2000)):
        damaged = bytearray(headers)
        for _ in range(chance.choice([1, 3])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            image = elf.Image(0x10000, elf.segments_of(bytes(damaged[: chance.choice([len(damaged), 100])]), 0x10000), read, PAGE)
            find(image)
        except elf.ElfError:
            pass
