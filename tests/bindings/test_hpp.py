"""pep788.hpp: it compiles without a warning everywhere, and C++ threads and objects end well whenever Python does."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import List

import pytest
import support

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "compile"))

import test_compile as compiling  # noqa: E402

CPP = [what for what in compiling.EVERY if what[0] == "c++"]


@pytest.fixture(scope="module")
def module() -> pathlib.Path:
    return support.build_extension("b_hpp", [HERE / "b_hpp.cpp"], language="c++", std="c++14")


@pytest.mark.parametrize("first", ["", "PYTHON_FIRST"], ids=["before Python.h", "after Python.h"])
@pytest.mark.parametrize("what", CPP, ids=compiling.ids(CPP))
def test_hpp_every_standard(what, first: str) -> None:
    lang, compiler, std = what
    words = compiling.command(compiling.found(compiler), lang, std, [first] if first else [])
    compiling.compiles(words, HERE / "use.cpp")


OTHERS = {
    "without exceptions and RTTI": (["-fno-exceptions", "-fno-rtti"], []),
    "without checks": ([], ["NDEBUG"]),
    "always": ([], ["PEP788_ALWAYS"]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_hpp_other_ways_to_compile(name: str) -> None:
    flags, defines = OTHERS[name]
    words = compiling.command(compiling.found("g++"), "c++", "c++11", defines)
    compiling.generates([*words, *flags], "-O2", HERE / "use.cpp")


@support.needs_limited_api
def test_hpp_limited_api() -> None:
    words = compiling.command(compiling.found("g++"), "c++", "c++11", ["Py_LIMITED_API=0x03090000"])
    compiling.compiles(words, HERE / "use.cpp")


def child(code: str, module: pathlib.Path, **options) -> support.Result:
    return support.run_child("import b_hpp as m\n" + code, path=[module], **options)


POOL = "m.pool({way!r}, 4, lambda: sum(range(20)))\n"


def pool(way: str, module: pathlib.Path, **options) -> support.Result:
    return child(POOL.format(way=way), module, **options)


@pytest.mark.parametrize("way", ["attached", "kept", "guard"])
def test_hpp_threads_are_refused_and_joined(module, way: str) -> None:
    """The process ends while four threads call Python; a static destructor joins them."""
    for _ in range(support.tries(3)):
        result = pool(way, module).check()
        assert result.out.strip() == "joined 4, refused 4", result.describe()


def test_hpp_the_same_with_PyGILState_is_red(module) -> None:
    """Up to 3.13.7 std::terminate, later a join that never returns, a crash on 3.14: one of three tries is enough."""
    for _ in range(3):
        result = pool("old", module, timeout=6)
        if result.hung or result.returncode:
            return
    pytest.fail(result.describe("PyGILState_Ensure ended well three times"))


def test_hpp_objects_die_on_any_thread(module) -> None:
    code = """
import sys
class Noisy:
    def __del__(self, write=sys.stdout.write): write("gone\\n")
m.drop([Noisy() for _ in range(5)])
print("dropped")
"""
    assert child(code, module).check().out.split() == ["gone"] * 5 + ["dropped", "joined", "0,", "refused", "0"]


def test_hpp_objects_outlive_python(module) -> None:
    """They are leaked, and the process ends as if they were not there."""
    code = "class Noisy:\n    def __del__(self, write=print): write('late')\nm.keep(Noisy())\n"
    assert child(code, module).check().out.split() == ["joined", "0,", "refused", "0"]


def test_hpp_an_end_that_assigns_to_the_same_object(module) -> None:
    """RED before: the new value was overwritten and never released."""
    code = """
class Noisy:
    def __init__(self, number): self.number = number
    def __del__(self, write=print):
        write("end", self.number)
        if self.number == 1:
            m.assign(Noisy(2))
m.assign(Noisy(1))
m.assign(Noisy(3))
m.assign(None)
print("done")
"""
    assert child(code, module).check().lines()[:4] == ["end 1", "end 3", "end 2", "done"]


def test_hpp_moves_keep_the_reference_count(module) -> None:
    code = """
import sys
thing = object()
before = sys.getrefcount(thing)
for _ in range(10):
    m.moves(thing)
assert sys.getrefcount(thing) == before
"""
    child(code, module).check()


MISUSES = {
    "guard": "pep788::guard: the view is empty",
    "attached to a view": "pep788::attached: the view is empty",
    "attached to a guard": "pep788::attached: the guard is empty",
    "attached to an object": "pep788::attached: the object is empty",
    "kept": "pep788::kept: the view is empty",
    "get": "pep788::object::get: it is empty",
}


@pytest.mark.parametrize("what", MISUSES)
def test_hpp_misuse_is_caught(module, what: str) -> None:
    result = child(f"m.misuse({what!r})", module)
    assert result.returncode != 0 and MISUSES[what] in result.err, result.describe()


def test_hpp_misuse_fails_where_checks_are_off() -> None:
    unchecked = support.build_extension(
        "b_hpp", [HERE / "b_hpp.cpp"], language="c++", std="c++14", defines=["PEP788_CHECKS=0"]
    )
    code = f"assert not any(m.misuse(what) for what in {list(MISUSES)!r})\n"
    child(code, unchecked).check()


def test_hpp_nothing_of_it_is_exported(tmp_path) -> None:
    """RED before: two modules under RTLD_GLOBAL ran the first one's functions on the first one's data."""
    words: List[str] = compiling.command(compiling.found("g++"), "c++", "c++11", [])
    target = tmp_path / "use.so"
    subprocess.run([*words, "-O0", "-shared", "-o", str(target), str(HERE / "use.cpp")], check=True)
    names = compiling.exported(target)
    assert any("use" in name for name in names) and not any("pep788" in name for name in names), names


def test_hpp_two_files_of_a_module(tmp_path) -> None:
    """Included from several files it defines nothing twice."""
    words: List[str] = compiling.command(compiling.found("g++"), "c++", "c++11", [])
    other = tmp_path / "other.cpp"
    other.write_text((HERE / "use.cpp").read_text().replace("use(PyObject", "use_too(PyObject"))
    done = subprocess.run(
        [*words, "-shared", "-o", str(tmp_path / "both.so"), str(HERE / "use.cpp"), str(other)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
