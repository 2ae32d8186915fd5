"""What `pip install pep788` gives: an sdist is built from a copy of the tree, a wheel from the sdist, and used."""

from __future__ import annotations

import pathlib
import shutil
import sys
import sysconfig
import tarfile
import zipfile

import pytest
import support

setuptools = pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools 77")

BUILD = "from setuptools import build_meta; import sys; print(getattr(build_meta, 'build_' + sys.argv[1])(sys.argv[2]))"
# Folders that are in the sdist as a whole: who packages pep788 elsewhere runs the tests from there.
WHOLE = ["bench", "docs", "examples", "tests", "tools"]
COPIED = ["pyproject.toml", "setup.py", "MANIFEST.in", "Makefile", "noxfile.py", "README.md", "LICENSE", "CHANGELOG.md"]
COPIED += ["src", *(name for name in WHOLE if (support.REPO / name).is_dir())]
PROGRAMS = support.REPO / "src" / "pep788" / "demo" / "programs"
INJECTED = support.REPO / "src" / "pep788" / "stress" / "inject"
# What a user needs, whatever else is there.
IN_WHEEL = {
    "pep788/__init__.py",
    "pep788/__init__.pxd",
    "pep788/__main__.py",
    "pep788/_core.pyi",
    "pep788/_site/_pep788_site.py",
    "pep788/cli.py",
    "pep788/cmake/__init__.py",
    "pep788/cmake/pep788Config.cmake",
    "pep788/cmake/pep788ConfigVersion.cmake",
    "pep788/check/cli.py",
    "pep788/check/rules/p101_gilstate_pair.py",
    "pep788/demo/__init__.py",
    *(f"pep788/demo/programs/{path.name}" for path in PROGRAMS.iterdir() if path.is_file()),
    "pep788/include/pep788.h",
    "pep788/include/pep788.hpp",
    "pep788/include/pep788/binding.hpp",
    "pep788/include/pep788/nanobind.hpp",
    "pep788/include/pep788/pybind11.hpp",
    "pep788/pkgconfig/pep788.pc",
    "pep788/py.typed",
    "pep788/shield/__init__.py",
    "pep788/shield/_site/sitecustomize.py",
    "pep788/stress/pytest_plugin.py",
    *(f"pep788/stress/inject/{path.name}" for path in INJECTED.glob("*.py")),
    *(["pep788/stress/_probe" + str(sysconfig.get_config_var("EXT_SUFFIX"))] if sys.platform == "linux" else []),
    "pep788/vendor.py",
    "pep788/_core" + str(sysconfig.get_config_var("EXT_SUFFIX")),
    "pep788/_callback.pyi",
    "pep788/_pointers.py",
}
CALLBACK = "pep788/_callback" + str(sysconfig.get_config_var("EXT_SUFFIX"))
IN_SDIST = {"README.md", "LICENSE", "pyproject.toml", "setup.py", "src/pep788/include/pep788.h"}
IN_SDIST |= {f"src/pep788/{name}" for name in ("_core.c", "_core.h", "_watchdog.c", "_callback.c", "_shield.c")}
if sys.platform == "linux":
    IN_WHEEL.add("pep788/_shield" + str(sysconfig.get_config_var("EXT_SUFFIX")))


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> pathlib.Path:
    """A copy, because building writes into the tree."""
    folder = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "*.egg-info")
    for name in COPIED:
        source = support.REPO / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignore)
        else:
            shutil.copy(source, folder)
    return folder


def build(tree: pathlib.Path, kind: str, folder: pathlib.Path, **env: str) -> pathlib.Path:
    code = f"import os; os.chdir({str(tree)!r})\n{BUILD}"
    result = support.run_child(code, args=[kind, str(folder)], timeout=300, env=env).check()
    return folder / result.lines()[-1]


@pytest.fixture(scope="module")
def sdist(tree, tmp_path_factory) -> pathlib.Path:
    return build(tree, "sdist", tmp_path_factory.mktemp("sdist"))


def unpack(sdist: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", **safely)
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build(unpack(sdist, folder), "wheel", folder)


def test_sdist_holds_what_a_build_needs(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= IN_SDIST, sorted(IN_SDIST - names)


def test_sdist_holds_every_tracked_file_of_these_folders(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = {path.as_posix() for path in support.tracked_files() if path.parts[0] in WHOLE}
    assert tracked
    assert sorted(tracked - names) == []


def test_wheel_holds_what_a_user_needs_and_no_sources(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert names >= IN_WHEEL, sorted(IN_WHEEL - names)
    sources = [name for name in names if name.endswith((".c", ".cpp")) and "demo" not in name]
    assert not sources
    assert not [name for name in names if name.endswith("_core.h") or "__pycache__" in name]
    assert [name for name in names if name.endswith("LICENSE")], "the license is missing"


def test_wheel_works_where_it_is_installed(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    result = support.run_child([sys.executable, "-m", "pep788", "info", "--json"], path=[tmp_path]).check()
    assert str(tmp_path) in result.out and '"pep788": 0' in result.out
    code = "import pep788\nwith pep788.guard():\n    print(pep788.guard_count())"
    assert support.run_child(code, path=[tmp_path]).check().out == "1\n"


def test_wheel_needs_nothing_at_run_time_and_names_its_command(wheel):
    archive = zipfile.ZipFile(wheel)
    info = next(name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name)
    metadata = archive.read(f"{info}/METADATA").decode()
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert required == []
    assert "pep788 = pep788.cli:main" in archive.read(f"{info}/entry_points.txt").decode()


@pytest.mark.skipif(not support.has_ffi(), reason="libffi's headers are not installed")
def test_wheel_has_callback_where_libffi_is_installed(wheel, tmp_path):
    assert CALLBACK in zipfile.ZipFile(wheel).namelist()
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = "import ctypes, pep788\nprint(pep788.callback(ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 3), on_closed=0)())"
    assert support.run_child(code, path=[tmp_path]).check().out == "3\n"


# Finds everything but libffi's headers.
COMPILER_WITHOUT_FFI = """#!/bin/sh
case "$*" in *pep788_probe_ffi.c*) echo "ffi.h: No such file or directory" >&2; exit 1;; esac
exec {compiler} "$@"
"""


@pytest.fixture(scope="module")
def wheel_without_ffi(sdist, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("without")
    compiler = folder / "cc"
    compiler.write_text(COMPILER_WITHOUT_FFI.format(compiler=support.compile_command()[0]))
    compiler.chmod(0o755)
    return build(unpack(sdist, folder), "wheel", folder, CC=str(compiler), CFLAGS="-O0")


def test_wheel_without_libffi_has_all_the_rest_and_says_how_to_get_it(wheel_without_ffi, tmp_path):
    archive = zipfile.ZipFile(wheel_without_ffi)
    assert set(archive.namelist()) >= IN_WHEEL and CALLBACK not in archive.namelist()
    archive.extractall(tmp_path)
    code = """
import ctypes, pep788
with pep788.guard():
    print(pep788.guard_count())
try:
    pep788.callback(ctypes.CFUNCTYPE(None)(print))
except ImportError as error:
    print(error.name, error)
"""
    count, message = support.run_child(code, path=[tmp_path]).check().lines()
    assert count == "1"
    assert message.startswith("pep788._callback pep788.callback needs libffi") and "libffi-dev" in message
