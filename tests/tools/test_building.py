"""What build systems are told: `pep788 config`, the CMake package, pep788.pc."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest
import support

CMAKE = support.REPO / "src" / "pep788" / "cmake"
PKGCONFIG = support.REPO / "src" / "pep788" / "pkgconfig"


def version() -> str:
    """As the header states it."""
    found = re.search(r'#define PEP788_VERSION "(.*)"', (support.INCLUDE / "pep788.h").read_text(encoding="utf-8"))
    assert found
    return found.group(1)


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here")
    return path


def test_config_prints_what_is_there(command, package):
    folders = {"--includedir": "pep788.h", "--cmakedir": "pep788Config.cmake", "--pkgconfigdir": "pep788.pc"}
    for option, name in folders.items():
        folder = pathlib.Path(command("config", option).check().out.rstrip("\n"))
        assert (folder / name).is_file() and package in folder.parents
    flags = shlex.split(command("config", "--cflags", "--libs").check().out)
    assert flags == [f"-I{package / 'pep788' / 'include'}", "-pthread", "-pthread"]


def test_config_without_an_option_says_which_there_are(command):
    assert "--cflags, --libs, --includedir" in command("config").check(2).err


def test_versions_agree():
    assert f'set(PACKAGE_VERSION "{version()}")' in (CMAKE / "pep788ConfigVersion.cmake").read_text()
    assert f"Version: {version()}\n" in (PKGCONFIG / "pep788.pc").read_text()


def test_pkg_config():
    words = [program("pkg-config"), "--cflags", "--libs", "--print-errors", f"pep788 = {version()}"]
    environment = dict(os.environ, PKG_CONFIG_PATH=str(PKGCONFIG))
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    (include,) = [word[2:] for word in shlex.split(done.stdout) if word.startswith("-I")]
    assert os.path.samefile(include, support.INCLUDE) and "-pthread" in done.stdout


# What find_package sets for a version, or a range of them, that a project asks for.
REQUESTS = {
    "0.1": "yes exact",
    "0.1.0": "yes exact",
    "0.1.1": "no",
    "0.2": "no",
    "1.0": "no",
    "0.1...0.3": "yes",
    "0.1...0.1": "yes",
    "0.1...<0.1.0": "no",
    "0.2...0.3": "no",
}
ASK = """
set(PACKAGE_FIND_VERSION {minimum})
if(NOT "{maximum}" STREQUAL "")
  set(PACKAGE_FIND_VERSION_RANGE "{wanted}")
  set(PACKAGE_FIND_VERSION_MIN {minimum})
  set(PACKAGE_FIND_VERSION_MAX {maximum})
  set(PACKAGE_FIND_VERSION_RANGE_MAX {kind})
endif()
set(PACKAGE_VERSION_EXACT FALSE)
include({file})
message("{wanted} ${{PACKAGE_VERSION_COMPATIBLE}} ${{PACKAGE_VERSION_EXACT}}")
"""


def test_cmake_versions(tmp_path):
    """0.1.0 is what 0.1 asks for, and no other 0.x."""
    script = tmp_path / "ask.cmake"
    with script.open("w") as stream:
        for wanted in REQUESTS:
            minimum, _, maximum = wanted.partition("...")
            words = {"kind": "EXCLUDE" if maximum.startswith("<") else "INCLUDE", "maximum": maximum.lstrip("<")}
            file = CMAKE / "pep788ConfigVersion.cmake"
            stream.write(ASK.format(wanted=wanted, minimum=minimum, file=file.as_posix(), **words))
    done = subprocess.run([program("cmake"), "-P", str(script)], stderr=subprocess.PIPE, text=True, check=True)
    words = {"yes": "TRUE FALSE", "yes exact": "TRUE TRUE", "no": "FALSE FALSE"}
    assert done.stderr.splitlines() == [f"{wanted} {words[answer]}" for wanted, answer in REQUESTS.items()]
