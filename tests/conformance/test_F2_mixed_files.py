"""F2, F7: one module of source files that include the header in different ways, each with data of its own layout.

Within a module the files share what the header keeps by means of weak symbols: only files whose header and whose
Py_LIMITED_API are the same may do that.
"""

from __future__ import annotations

import hashlib
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Dict

import pytest
import support
from f_tools import HERE, child, events

LIMITED = HERE / "f_mixed_limited.c"


def other_version() -> pathlib.Path:
    """A file whose header is of another version, in which what a module shares has another layout."""
    header = (support.INCLUDE / "pep788.h").read_text()
    header, numbers = re.subn(r"(#\s*define\s+PEP788_VERSION_HEX\s+)\S+", r"\g<1>0x000907F0", header)
    assert numbers == 1, "pep788.h does not say its version once"
    header, fields = re.subn(r"(?m)^( +pep788_record main;)", r"    pep788_word new_in_this_version[24];\n\1", header)
    assert fields == 1, "pep788.h has another first field in what it shares: change it here, too"
    folder = support.BUILD / f"f_mixed-{sys.implementation.cache_tag}-{hashlib.sha256(header.encode()).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pep788_other.h").write_text(header)
    source = folder / "f_mixed_other.c"
    source.write_text(f'#define FILE_ second_file\n#include "{folder}/pep788_other.h"\n#include "{HERE}/f_mixed.h"\n')
    return source


def second(name: str) -> pathlib.Path:
    return LIMITED if name == "limited API" else other_version()


def weak_data(source: pathlib.Path, folder: pathlib.Path) -> Dict[str, str]:
    """Names and sizes of the data that an object file of this source shares with others of its module."""
    target = folder / f"{source.stem}.o"
    command = [*support.compile_command(), "-I", str(HERE), "-fPIC", "-c", str(source), "-o", str(target)]
    subprocess.run(command, check=True)
    shown = subprocess.run(["nm", "-S", str(target)], check=True, stdout=subprocess.PIPE, text=True).stdout
    return {line[3]: line[1] for line in map(str.split, shown.splitlines()) if len(line) == 4 and line[2] in "VvuW"
            and "pep788" in line[3]}


SECONDS = pytest.mark.parametrize("name", ["limited API", "other version"])
ORDERS = pytest.mark.parametrize("order", [1, -1], ids=["first file first", "second file first"])


@SECONDS
@ORDERS
def test_F2_F7_two_kinds_of_files_in_one_module(name: str, order: int) -> None:
    """RED before on 3.9, 3.11 (all but one case) and 3.14 (other version): crashed."""
    path = support.build_extension("f_mixed", [HERE / "f_mixed.c", second(name)][::order], extra=["-I", str(HERE)])
    code = """
    import atexit, f_mixed as m
    m.every_way()
    m.hold(0)
    m.hold(1)
    m.every_way_again = m.hold(0), m.hold(1)
    atexit.register(m.go)
    """
    assert events(child(code, path=[path]).check()) == ["waited for"] * 4


@pytest.mark.skipif(shutil.which("nm") is None or sys.platform == "darwin", reason="needs GNU nm")
@SECONDS
def test_F2_F7_data_of_different_layout_have_different_names(name: str, tmp_path: pathlib.Path) -> None:
    """RED before on 3.9, 3.11 and 3.14: pep788_shared in both, of different sizes."""
    one, two = weak_data(HERE / "f_mixed.c", tmp_path), weak_data(second(name), tmp_path)
    assert one and two
    common = {symbol for symbol in one if symbol in two}
    assert not [symbol for symbol in common if one[symbol] != two[symbol]], (one, two)
    if name == "other version":
        assert not common
