"""pep788/pybind11.hpp and pep788/nanobind.hpp, next to what the bindings do by themselves."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import List

import pytest
import support

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "compile"))

import test_compile as compiling  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Binding:
    """The module b_binding, built for one release of a binding; `path` is its folder."""

    name: str
    path: pathlib.Path

    @property
    def is_pybind11(self) -> bool:
        return self.name.startswith("pybind11")

    @property
    def can_fail(self) -> bool:
        """Its own acquire asks the native API whether it is too late."""
        return self.name == "nanobind-3" and support.HAS_NATIVE

    def child(self, code: str, **options) -> support.Result:
        return support.run_child("import b_binding as m\n" + code, path=[self.path], **options)


def unpacked(name: str) -> pathlib.Path:
    """The package folder of a release; skips where the release does not support this interpreter."""
    folder = support.BINDINGS / name / name.split("-")[0]
    if not folder.is_dir():
        pytest.skip(f"no {folder}: run python3 tools/setup_env.py --extra test")
    if name == "nanobind-3" and sys.version_info < (3, 10):
        pytest.skip("nanobind 3 needs Python 3.10")
    return folder


def language_defines(name: str) -> List[str]:
    return ["B_NANOBIND"] if name.startswith("nanobind") else []


def system_headers(folder: pathlib.Path) -> List[str]:
    """Of pybind11, or of nanobind and the one library it comes with."""
    includes = [folder / "include", folder / "ext" / "robin_map" / "include"]
    return [word for include in includes if include.is_dir() for word in ("-isystem", str(include))]


def backend(folder: pathlib.Path) -> List[pathlib.Path]:
    """nanobind's compiled part, which its CMake functions add to each module."""
    return [path for path in [folder / "src" / "nb_combined.cpp"] if path.is_file()]


def build(name: str) -> Binding:
    folder = unpacked(name)
    flags = ["-O0", "-g0", "-Wpedantic", "-fvisibility=hidden", *system_headers(folder)]
    sources = [HERE / "b_binding.cpp", *backend(folder)]
    path = support.build_extension(
        "b_binding", sources, defines=language_defines(name), language="c++", std="c++17", extra=flags
    )
    return Binding(name, path)


PYBIND11 = ["pybind11-2", "pybind11-3"]


@pytest.fixture(scope="module", params=[*PYBIND11, "nanobind-2", "nanobind-3"])
def binding(request) -> Binding:
    return build(request.param)


@pytest.fixture(scope="module", params=PYBIND11)
def pybind11(request) -> Binding:
    return build(request.param)


def ends_badly(binding: Binding, code: str, *, expected: str, tries: int = 3, **options) -> None:
    """One of some tries is enough: a crash, std::terminate, a hang, or an answer that is not `expected`."""
    for _ in range(tries):
        result = binding.child(code, timeout=3, **options)
        if result.hung or result.returncode or expected not in result.out:
            return
    pytest.fail(result.describe(f"{binding.name}'s own way ended well {tries} times"), pytrace=False)


# --- warnings -------------------------------------------------------------------------------------------------

STRICT = [
    ("pybind11-2", "clang++", "c++14", []),
    ("pybind11-3", "g++", "c++11", []),
    ("nanobind-2", "g++", "c++20", []),
    ("nanobind-3", "clang++", "c++17", []),
    ("nanobind-3", "g++", "c++17", ["Py_LIMITED_API=0x030C0000"]),
]


@pytest.mark.parametrize("what", STRICT, ids=lambda what: " ".join([*what[:3], *what[3]]))
def test_binding_compiles_without_a_warning(what) -> None:
    name, compiler, std, defines = what
    if defines and (sys.version_info < (3, 12) or support.FREE_THREADED):
        pytest.skip("nanobind supports the limited API from 3.12 on")
    words = compiling.command(compiling.found(compiler), "c++", std, [*defines, *language_defines(name)])
    compiling.compiles([*words, *system_headers(unpacked(name))], HERE / "use_binding.cpp")


# --- threads that call Python while it ends -------------------------------------------------------------------

ALL_REFUSED = "joined 4, refused 4, in flight 0"


@pytest.mark.parametrize("way", ["function", "acquire", "kept"])
def test_binding_threads_are_refused_and_joined(binding: Binding, way: str) -> None:
    """A std::function that throws when it is too late; an acquire that fails, with theirs nested in it."""
    for _ in range(support.tries(2)):
        result = binding.child(f"m.pool_{way}(4, lambda number: number)").check()
        assert result.out.strip() == ALL_REFUSED, result.describe()


def test_binding_overridden_methods_called_by_threads(binding: Binding) -> None:
    """The binding acquires once more inside its own macro, which cannot be changed."""
    code = """
class Handler(m.Handler):
    def on_event(self, number): return number
handler = Handler()
m.pool_virtual(4, handler)
"""
    result = binding.child(code).check()
    assert result.out.strip() == ALL_REFUSED, result.describe()


def test_binding_the_same_with_its_own_acquire(binding: Binding) -> None:
    code = "m.pool_theirs(4, lambda number: number)"
    if binding.can_fail:
        assert binding.child(code).check().out.strip() == ALL_REFUSED
    else:
        ends_badly(binding, code, expected="refused 4")


DEBUG_MALLOC = {"PYTHONMALLOC": "debug"}
"""Freed memory is overwritten: what was deleted cannot be used by luck."""


# --- callables and objects kept by C++ ------------------------------------------------------------------------


def test_binding_functions_called_and_destroyed_after_python(binding: Binding) -> None:
    """By a native thread that a static destructor starts."""
    code = "m.keep(lambda number: number)\nm.keep_object(lambda: 1)\n"
    result = binding.child(code, env=DEBUG_MALLOC).check()
    assert result.lines() == ["late call gave -1", "joined 0, refused 0, in flight 0"]


def test_binding_the_same_with_its_own_function(binding: Binding) -> None:
    code = "m.keep_theirs(lambda number: number)"
    if binding.can_fail:
        assert binding.child(code).check().lines()[0] == "late call threw"
    else:
        ends_badly(binding, code, expected="late call threw", env=DEBUG_MALLOC)


DESTROYED = "m.keep{}(lambda number: number)\nm.only_destroy()\n"


def test_binding_functions_destroyed_after_python(binding: Binding) -> None:
    result = binding.child(DESTROYED.format(""), env=DEBUG_MALLOC).check()
    assert result.out.strip() == "joined 0, refused 0, in flight 0"


@pytest.mark.skipif(support.HAS_NATIVE, reason="3.15.2 deallocates a function after its end without a crash, mostly")
def test_pybind11_the_same_with_its_own_function(pybind11: Binding) -> None:
    """nanobind's looks whether it is still alive; pybind11's does not."""
    ends_badly(pybind11, DESTROYED.format("_theirs"), expected="joined", env=DEBUG_MALLOC)


def test_binding_copies_belong_to_any_thread(binding: Binding) -> None:
    code = """
import weakref
def function(number): calls.append(number)
calls, alive = [], weakref.ref(function)
m.copies(lambda number, function=function: function(number) or 0)
del function
print(calls, alive())
"""
    assert binding.child(code).check().lines()[0] == "[1, 1, 1] None"


def test_binding_answers(binding: Binding) -> None:
    code = """
print(m.call(lambda n: n + 1, 4), m.call_to_throw(lambda n: n * 2, 4), m.call_optional(lambda n: n, 3))
print(m.call_void(lambda text: print(text)))
print(m.same(print) is print, m.same(None), m.is_empty(None), m.is_empty(print))
try:
    m.same(3)
except TypeError:
    print("refused")
assert "Callable[[" in m.same.__doc__, m.same.__doc__
"""
    result = binding.child(code).check()
    assert result.lines()[:5] == ["5 8 3", "text", "called", "True None True False", "refused"]
    assert result.err == ""


RAISED = {
    "call": "-1",
    "call_to_throw": "threw: ",
    "call_optional": "nothing",
}


@pytest.mark.parametrize("way", RAISED)
def test_binding_exceptions_and_results_of_another_type(binding: Binding, way: str) -> None:
    """They are reported, or in the message of what is thrown; never lost, never with a reference to Python's."""
    code = f"print(m.{way}(lambda n: 1 / 0, 1))\nprint(m.{way}(lambda n: 'text', 1))\n"
    result = binding.child(code).check()
    assert result.out.count(RAISED[way]) == 2, result.describe()
    where = result.out if way == "call_to_throw" else result.err
    assert "ZeroDivisionError" in where and ("cast" in where), result.describe()


def test_binding_exceptions_of_a_void_function(binding: Binding) -> None:
    result = binding.child("print(m.call_void(lambda text: 1 / 0))").check()
    assert result.lines()[0] == "called" and "ZeroDivisionError" in result.err


# --- nesting, and pybind11's own slot -------------------------------------------------------------------------

ORDERS = ["theirs in ours", "ours in theirs", "release in ours", "ours in release in theirs"]

def nests(binding: Binding, order: str) -> None:
    for is_kept in False, True:
        result = binding.child(f"print(m.nested({order!r}, {is_kept}))", env=DEBUG_MALLOC).check()
        assert result.lines()[0] == "3"


@pytest.mark.parametrize("order", ORDERS)
def test_binding_nests_in_any_order(binding: Binding, order: str) -> None:
    nests(binding, order)


def test_pybind11_disassociated_in_ours(pybind11: Binding) -> None:
    """gil_scoped_release(true) puts the state into pybind11's slot, and there it stays."""
    nests(pybind11, "disassociated in ours")


def test_pybind11_the_same_without_care_for_the_slot(pybind11: Binding) -> None:
    """With pep788::attached alone: pybind11's next acquire on the thread uses the deleted state."""
    ends_badly(pybind11, "print(m.nested_without_slot())", expected="3\n", tries=1, env=DEBUG_MALLOC)


# --- subinterpreters ------------------------------------------------------------------------------------------

SUB = """
import sys
if sys.version_info >= (3, 13):
    import _interpreters as api
    sub = api.create({kind!r})
else:
    import _xxsubinterpreters as api
    sub = api.create(isolated={kind!r} == "isolated")

def run(code):
    error = api.run_string(sub, code)
    assert error is None, error
"""
USE_IN_SUB = """
import b_binding as m
print(m.call(lambda number: number + 1, 4), m.nested("theirs in ours", False), flush=True)
m.keep(lambda number: number)
"""
needs_subinterpreters = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="pybind11 supports subinterpreters from 3.12 on"
)


@needs_subinterpreters
@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_pybind11_callables_know_their_interpreter(kind: str) -> None:
    """Called on native threads of a subinterpreter's module, and after its end."""
    code = SUB.format(kind=kind) + f"run({USE_IN_SUB!r})\nprint(m.call(lambda number: number, 6))\napi.destroy(sub)\n"
    result = build("pybind11-3").child(code).check()
    assert result.lines() == ["5 3", "6", "late call gave -1", "joined 0, refused 0, in flight 0"]


@needs_subinterpreters
def test_pybind11_the_main_interpreter_is_home() -> None:
    """Also where a subinterpreter imported the module first, and has ended."""
    code = SUB.format(kind="legacy") + """
run("import b_binding as m; print(m.acquires(), flush=True)")
import b_binding as m
api.destroy(sub)
print(m.acquires())
"""
    result = support.run_child(code, path=[build("pybind11-3").path]).check()
    assert result.lines()[:2] == ["True", "True"]


# --- call guards ----------------------------------------------------------------------------------------------

WORK = """
import atexit, threading
atexit.register(m.end_work)
threading.Thread(target=m.{}, daemon=True).start()
m.wait_for_work()
"""


def test_binding_release_holds_the_exit(binding: Binding) -> None:
    """A daemon thread is in a function that has released the GIL when the program ends."""
    result = binding.child(WORK.format("work")).check()
    assert result.out.strip() == "joined 0, refused 0, in flight 0"


def test_binding_the_same_with_its_own_release(binding: Binding) -> None:
    """std::terminate in the destructor of the guard up to 3.13.7, later the thread never comes back."""
    ends_badly(binding, WORK.format("work_theirs"), expected="in flight 0")


def test_binding_release_when_it_is_too_late(binding: Binding) -> None:
    """In the finalizing thread, after guards are refused: the function runs, and stays attached."""
    code = """
import os
class Late:
    def __del__(self, releases=m.releases, write=os.write):
        write(1, b"late %d\\n" % releases())
print(m.releases(), m.guarded(), flush=True)
m.late = Late()
m.late.cycle = m.late
"""
    assert binding.child(code).check().lines()[:2] == ["True 1", "late 0"]


def test_binding_without_init_says_what_to_do(binding: Binding) -> None:
    result = binding.child("m.guarded()", env={"B_NO_INIT": "1"})
    assert result.signal and "needs pep788::py::init() or pep788::nb::init()" in result.err, result.describe()
