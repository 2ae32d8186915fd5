"""The header compiles without a warning in every language, and a module that includes it exports nothing of it."""

from __future__ import annotations

import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
from typing import List, Sequence, Set

import pytest
import support

HERE = pathlib.Path(__file__).resolve().parent
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
COMPILERS = {"c": ["gcc", "clang"], "c++": ["g++", "clang++"]}
# The last two before a standard had its final name, for compilers older than it.
STANDARDS = {
    "c": ["c11", "c17", "c23"],
    "c++": ["c++11", "c++14", "c++17", "c++20", "c++23"],
}
OLD_NAMES = {"c23": "c2x", "c++23": "c++2b", "c++20": "c++2a"}
MODES = {
    "plain": [],
    "always": ["PEP788_ALWAYS"],
    "replace gilstate": ["PEP788_REPLACE_GILSTATE"],
    "always, replace gilstate": ["PEP788_ALWAYS", "PEP788_REPLACE_GILSTATE"],
}
LIMITED = [f"0x03{minor:02X}0000" for minor in range(9, sys.version_info.minor + 1)]

LANGUAGES = [(lang, compiler) for lang in COMPILERS for compiler in COMPILERS[lang]]
EVERY = [(lang, compiler, std) for lang, compiler in LANGUAGES for std in STANDARDS[lang]]


def found(compiler: str) -> str:
    path = shutil.which(compiler)
    if path is None:
        pytest.skip(f"no {compiler} here")
    return path


@functools.lru_cache(maxsize=None)
def accepted(compiler: str, lang: str, std: str) -> str:
    """The name under which this compiler knows the standard, or "" if it does not."""
    for name in (std, OLD_NAMES.get(std, std)):
        words = [compiler, f"-std={name}", "-x", lang, "-fsyntax-only", os.devnull]
        if subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            return name
    return ""


@functools.lru_cache(maxsize=None)
def python_has_no(compiler: str, lang: str, name: str) -> bool:
    """CPython's own header does not compile: 3.13.0's says nullptr in C23, which gcc 12 and clang 14 do not know yet."""
    words = [compiler, "-x", lang, f"-std={name}", *python_headers(), "-fsyntax-only", "-"]
    done = subprocess.run(words, input="#include <Python.h>\n", text=True, capture_output=True)
    return done.returncode != 0 and "nullptr" in done.stderr


def python_headers() -> List[str]:
    return [word for key in ("include", "platinclude") for word in ("-isystem", sysconfig.get_path(key))]


def command(compiler: str, lang: str, std: str, defines: Sequence[str]) -> List[str]:
    name = accepted(compiler, lang, std)
    if not name:
        pytest.skip(f"{compiler} does not know {std}")
    if std == "c23" and python_has_no(compiler, lang, name):
        pytest.skip(f"Python.h alone does not compile as {std} with {compiler}")
    words = [compiler, "-x", lang, f"-std={name}", "-fPIC", "-pthread"]
    words += STRICT + [f"-D{define}" for define in defines] + ["-I", str(support.INCLUDE)]
    return words + python_headers()


def compiles(words: Sequence[str], source: pathlib.Path = HERE / "c_use.c") -> None:
    """Only the front end: it knows the standard, and takes a tenth of the time of making code."""
    generates(words, "-fsyntax-only", source)


def generates(words: Sequence[str], how: str, source: pathlib.Path = HERE / "c_use.c") -> None:
    """With an optimization level: some warnings come from the passes after the front end."""
    output = ["-fsyntax-only"] if how == "-fsyntax-only" else [how, "-c", "-o", os.devnull]
    done = subprocess.run(
        [*words, *output, str(source)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode or done.stdout.strip():
        pytest.fail(f"{' '.join(words)}\n{done.stdout[-6000:]}", pytrace=False)


def ids(values: Sequence[object]) -> List[str]:
    return ["-".join(value[1:]) if isinstance(value, tuple) else str(value) for value in values]


@pytest.mark.parametrize("first", ["", "PYTHON_FIRST"], ids=["before Python.h", "after Python.h"])
@pytest.mark.parametrize("what", EVERY, ids=ids(EVERY))
def test_every_standard(what, first: str) -> None:
    lang, compiler, std = what
    compiles(command(found(compiler), lang, std, [first] if first else []))


@pytest.mark.parametrize("mode", list(MODES)[1:])
@pytest.mark.parametrize("what", EVERY, ids=ids(EVERY))
def test_every_mode(what, mode: str) -> None:
    lang, compiler, std = what
    compiles(command(found(compiler), lang, std, ["PYTHON_FIRST", *MODES[mode]]))


@support.needs_limited_api
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("limited", LIMITED)
@pytest.mark.parametrize("what", LANGUAGES, ids=ids(LANGUAGES))
def test_limited_api(what, limited: str, mode: str) -> None:
    lang, compiler = what
    defines = [f"Py_LIMITED_API={limited}", *MODES[mode]]
    compiles(command(found(compiler), lang, STANDARDS[lang][0], defines))


@support.needs_limited_api
@pytest.mark.parametrize("std", ["c++20", "c++23"])
def test_limited_api_in_new_standards(std: str) -> None:
    compiles(command(found("g++"), "c++", std, [f"Py_LIMITED_API={LIMITED[0]}"]))


OPTIMIZED = {
    "plain": [],
    "always": ["PEP788_ALWAYS", "PEP788_REPLACE_GILSTATE"],
    "limited": [f"Py_LIMITED_API={LIMITED[0]}"],
}


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=support.needs_limited_api if mode == "limited" else ()) for mode in OPTIMIZED]
)
@pytest.mark.parametrize("what", LANGUAGES, ids=ids(LANGUAGES))
def test_optimized(what, mode: str) -> None:
    lang, compiler = what
    generates(command(found(compiler), lang, STANDARDS[lang][1], OPTIMIZED[mode]), "-O2")


@pytest.mark.parametrize("level", ["-O0", "-O3", "-Os"])
def test_every_optimization_level(level: str) -> None:
    generates(command(found("gcc"), "c", "c11", ["PEP788_ALWAYS"]), level)


@pytest.mark.parametrize("what", LANGUAGES, ids=ids(LANGUAGES))
def test_forced_include(what, tmp_path) -> None:
    """F11 puts the header in front of sources that do not know of it, some of which know nothing of Python either."""
    lang, compiler = what
    source = tmp_path / "plain.c"
    source.write_text("#include <stdio.h>\nint plain(void);\nint plain(void) { return 0; }\n")
    words = command(found(compiler), lang, STANDARDS[lang][0], MODES["replace gilstate"])
    compiles([*words, "-include", "pep788.h"], source)


@pytest.mark.parametrize("what", LANGUAGES, ids=ids(LANGUAGES))
def test_included_and_not_used(what, tmp_path) -> None:
    """No warning of unused functions or variables."""
    lang, compiler = what
    source = tmp_path / "unused.c"
    source.write_text("#include <pep788.h>\nextern int nothing;\nint nothing;\n")
    compiles(command(found(compiler), lang, STANDARDS[lang][0], []), source)


# --- what the header refuses, it refuses in words ---


def refused(defines: Sequence[str]) -> str:
    words = command(found("gcc"), "c", "c11", defines)
    done = subprocess.run(
        [*words, "-fsyntax-only", str(HERE / "c_use.c")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode
    errors = [line for line in done.stdout.splitlines() if "#error" in line]
    assert errors, done.stdout
    return errors[0]


def test_pypy_is_refused() -> None:
    message = refused(['PYPY_VERSION="x"'])
    assert "PyPy" in message and "pep788.h" in message


def test_graalpy_is_refused() -> None:
    assert "GraalPy" in refused(["GRAALVM_PYTHON=1"])


@support.needs_limited_api
def test_a_limited_api_that_is_too_old_is_refused() -> None:
    assert "0x03090000" in refused(["Py_LIMITED_API=0x03080000"])


# --- one module of several source files ---


def link(sources: Sequence[tuple], tmp_path: pathlib.Path, defines: Sequence[str] = ()) -> pathlib.Path:
    """Compile each (source, language) on its own, link them into c_parts; returns the file."""
    objects = []
    for number, (source, lang) in enumerate(sources):
        target = tmp_path / f"{number}.o"
        words = support.compile_command(lang, defines=defines)
        words += ["-fPIC", "-x", lang, "-c", str(HERE / source), "-o", str(target)]
        subprocess.run(words, check=True)
        objects.append(str(target))
    file = tmp_path / ("c_parts" + str(sysconfig.get_config_var("EXT_SUFFIX")))
    linker = "c++" if any(lang == "c++" for _, lang in sources) else "c"
    words = support.compile_command(linker) + ["-shared", *objects, "-o", str(file)]
    words += ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    subprocess.run(words, check=True)
    return file


PARTS = {
    "C": [("c_first.c", "c"), ("c_second.c", "c"), ("c_use.c", "c")],
    "C++": [("c_first.c", "c++"), ("c_second.c", "c++"), ("c_use.c", "c++")],
    "C and C++": [("c_first.c", "c"), ("c_second.c", "c++")],
    "C++ and C": [("c_first.c", "c++"), ("c_second.c", "c")],
}
USE = """
import c_parts as m
assert m.second_on_thread()
guard = m.guard()
again = m.guard()
if not {native}:
    assert m.count() == m.second_count() == 2, (m.count(), m.second_count())
    assert [count for _, count in m.modules()] == [2], m.modules()
m.second_close(guard)
m.second_close(again)
assert m.second_ensure(lambda: 7) == 7
if not {native}:
    assert m.count() == m.second_count() == 0
print("fine")
"""


def check_parts(file: pathlib.Path) -> None:
    result = support.run_child(USE.format(native=support.NATIVE), path=[file.parent]).check()
    assert result.out == "fine\n" and result.err == ""


@pytest.mark.parametrize("parts", PARTS)
def test_source_files_of_a_module_share_one_copy(parts: str, tmp_path) -> None:
    if parts != "C" and shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("no C++ compiler here")
    check_parts(link(PARTS[parts], tmp_path))


def test_source_files_with_and_without_replaced_gilstate_share_one_copy(tmp_path) -> None:
    """The define may be there for some files only: the layout of what is shared must not depend on it."""
    objects = []
    for source, defines in (("c_first.c", []), ("c_second.c", ["PEP788_REPLACE_GILSTATE"])):
        objects.append(str(tmp_path / f"{source}.o"))
        words = support.compile_command(defines=defines) + ["-fPIC", "-c", str(HERE / source), "-o", objects[-1]]
        subprocess.run(words, check=True)
    file = tmp_path / ("c_parts" + str(sysconfig.get_config_var("EXT_SUFFIX")))
    subprocess.run([*support.compile_command(), "-shared", *objects, "-o", str(file)], check=True)
    check_parts(file)


def exported(file: pathlib.Path) -> Set[str]:
    """The names that a shared object gives to others."""
    if shutil.which("nm") is None or sys.platform == "darwin":
        pytest.skip("needs nm -D")
    out = subprocess.run(["nm", "-D", "--defined-only", str(file)], check=True, stdout=subprocess.PIPE, text=True)
    return {line.split()[-1] for line in out.stdout.splitlines()}


@pytest.mark.parametrize("defines", [[], ["PEP788_ALWAYS"], ["PEP788_REPLACE_GILSTATE"]], ids=str)
@pytest.mark.parametrize("parts", PARTS)
def test_nothing_of_ours_is_exported(parts: str, defines, tmp_path) -> None:
    """A module that exported these names would give them to, or take them from, another one's copy."""
    names = exported(link([part for part in PARTS[parts] if part[0] != "c_use.c"], tmp_path, defines))
    own = {"PyInit_c_parts", "second_close", "second_count", "second_on_thread", "second_ensure"}
    assert own <= names
    ours = re.compile(r"pep788|PyInterpreter(Guard|View)|PyThreadState_(Ensure|Release)|PyGILState", re.IGNORECASE)
    assert not [name for name in names if ours.search(name)]
    assert names - own <= {"_init", "_fini", "_edata", "_end", "__bss_start"}
