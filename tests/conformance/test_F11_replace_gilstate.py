"""F11: sources that use PyGILState, unchanged, are safe at exit once recompiled with the header."""

from __future__ import annotations

import pathlib
import re
import sys
import textwrap

import pytest
import support
from f_tools import HERE, TIMEOUT, events

RECOMPILED = ["-include", "pep788.h", "-DPEP788_REPLACE_GILSTATE"]
if sys.version_info < (3, 10):
    # Before bpo-40943 a source may do without it, and only its author knows. "=": the source has its own definition.
    RECOMPILED.append("-DPY_SSIZE_T_CLEAN=")
if support.NATIVE:
    RECOMPILED.append("-DPACED")


@pytest.fixture(scope="module")
def path() -> pathlib.Path:
    source = HERE / "f_gilstate.c"
    assert "pep788.h" not in re.sub(r"(?s)/\*.*?\*/", "", source.read_text())
    return support.build_extension("f_gilstate", [source], extra=RECOMPILED)


@pytest.fixture(scope="module")
def abi3() -> pathlib.Path:
    """The same source for the oldest limited API: on 3.15 it finds the native functions only at run time (F7)."""
    return support.build_extension("f_gilstate", [HERE / "f_gilstate.c"], extra=RECOMPILED, limited="0x03090000")


def embed(case: str) -> support.Result:
    """A program that has no module initialization of ours; f_gilstate_embed.c has the cases."""
    program = support.build_program("f_gilstate_embed", [HERE / "f_gilstate_embed.c"])
    return support.run_child([program, case], timeout=TIMEOUT)


def run(path: pathlib.Path, code: str, **options) -> support.Result:
    code = "import atexit, os, sys\nimport f_gilstate as m\n" + textwrap.dedent(code)
    return support.run_child(code, path=[path, HERE], **{"timeout": TIMEOUT, **options})


def test_F11_calls_in_flight_finish(path) -> None:
    """What was begun was ended: the process ends after an "e", and no thread is cut in the middle."""
    code = """
    def callback():
        for _ in range(3):
            [].append(sum(range(50)))
    m.callbacks(callback, 3)
    """
    for _ in range(support.tries(8)):
        result = run(path, code).check()
        assert result.out.count("b") == result.out.count("e") > 0
        assert result.err == ""


def test_F11_an_Ensure_that_keeps_the_thread_state_does_not_hold_finalization(path) -> None:
    """cffi's way: the call is over when its Release has detached, though one Ensure has no Release."""
    code = """
    m.keeps_one(lambda: os.write(1, b"called\\n"))
    m.wait(7)
    """
    result = run(path, code, env={"PEP788_GIVE_UP_AFTER": "5"}).check()
    assert (result.out, result.err) == ("called\n", "")


def test_F11_a_call_that_blocks_holds_finalization(path) -> None:
    """It is still inside when the main thread ends, and goes on after the atexit callbacks: imports, calls, waits."""
    code = """
    def callback():
        m.set(5)
        m.wait(6)
        import json.tool, decimal
        m.here(lambda: os.write(1, b"nested\\n"))
        os.write(1, b"after atexit\\n")
    m.one_call(callback)
    m.wait(5)
    def at_exit():
        os.write(1, b"atexit\\n")
        m.set(6)
    atexit.register(at_exit)
    """
    lines = events(run(path, code).check())
    assert lines[:3] == ["atexit", "nested", "after atexit"]
    assert lines[3:] in ([], ["call finished"])  # said after Release: the process may be gone


def test_F11_a_late_caller_is_parked(path) -> None:
    assert events(run(path, "m.late_caller()").check()) == ["parked"]


def test_F11_the_exit_status_is_the_programs(path) -> None:
    assert events(run(path, "m.late_caller()\nsys.exit(7)").check(7)) == ["parked"]


def test_F11_late_callers_in_cpp_are_not_unwound() -> None:
    path = support.build_extension(
        "f_gilstate_cpp", [HERE / "f_gilstate.cpp"], language="c++", std="c++14", extra=RECOMPILED
    )
    for _ in range(support.tries(5)):
        code = "import f_gilstate_cpp as m\nm.callbacks(lambda: None)\nsum(range(100000))"
        result = support.run_child(code, path=[path]).check()
        assert (result.out, result.err) == ("", "")


def test_F11_the_functions_keep_their_meaning(path) -> None:
    said = run(path, "print(m.meanings())").check().out.strip()
    assert said.split(";") == [
        "before 0",
        "outer unlocked 1 1",
        "inner locked 1 1",
        "outer again 1",
        "in ALLOW_THREADS unlocked 1",
        "after 0",
    ]


def test_F11_on_the_main_thread(path) -> None:
    assert events(run(path, "assert m.here(lambda: 41) == 41\nprint(m.here(lambda: m.here(lambda: 42)))").check()) == ["42"]


def test_F11_exceptions_pass_through(path) -> None:
    code = """
    try:
        m.here(lambda: 1 / 0)
    except ZeroDivisionError:
        print("raised")
    """
    assert events(run(path, code).check()) == ["raised"]


def test_F11_through_function_pointers(path) -> None:
    assert events(run(path, "m.by_pointers(lambda: os.write(1, b'called\\n'))").check()) == ["called"]


def test_F11_the_include_in_front_does_not_change_hash_formats(path) -> None:
    assert events(run(path, "print(m.length('a\\0bc'))").check()) == ["('a\\x00bc', 4)"]


def test_F11_inside_atexit_callbacks_and_destructors(path) -> None:
    code = """
    atexit.register(m.by_pointers, lambda: os.write(1, b"from atexit\\n"))
    class Last:
        def __del__(self, here=m.here, write=os.write):
            here(lambda: write(1, b"from teardown\\n"))
    sys.last_of_all = Last()
    """
    assert events(run(path, code).check()) == ["from atexit", "from teardown"]


def test_F11_in_a_subinterpreter(path) -> None:
    """On 3.12+ PyGILState_Ensure keeps the subinterpreter's thread state; before, it would wait for the GIL that its
    own thread holds, for ever. Ours does not hang, and gives back what was attached."""
    code = """
    import f_sub
    number = f_sub.create("legacy")
    f_sub.run(number, '''if True:
        import os, sys, f_gilstate as m
        sys.where = "sub"
        def where():
            import sys
            os.write(1, getattr(sys, "where", "main").encode() + b"\\\\n")
        m.here(where)
        where()
    ''')
    f_sub.destroy(number)
    os.write(1, b"destroyed\\n")
    """
    lines = events(run(path, code, timeout=20).check())
    if sys.version_info >= (3, 12):
        assert lines == ["sub", "sub", "destroyed"]
    else:
        assert lines[1:] == ["sub", "destroyed"]


def test_F11_in_the_child_of_a_fork(path) -> None:
    code = """
    m.callbacks(lambda: None, 2)
    pid = os.fork()
    if not pid:
        m.by_pointers(lambda: None)
        os._exit(m.here(lambda: 9))
    status = os.waitpid(pid, 0)[1]
    assert status == 9 << 8, status
    """
    run(path, code).check()


@support.ours_only("the child of 3.15.2 inherits the count of guards and hangs at its exit (F1)")
def test_F11_the_child_of_a_fork_finalizes(path) -> None:
    code = """
    m.callbacks(lambda: None, 2)
    pid = os.fork()
    if not pid:
        m.by_pointers(lambda: None)
        sys.exit(9)
    status = os.waitpid(pid, 0)[1]
    assert status == 9 << 8, status
    """
    for _ in range(support.tries(4)):
        run(path, code).check()


def test_F11_beside_a_module_that_was_not_recompiled(path) -> None:
    """The stock functions and ours nest in each other on one thread."""
    stock = support.build_extension("f_stock", [HERE / "f_gilstate.c"], extra=["-DPyInit_f_gilstate=PyInit_f_stock"])
    code = f"""
    sys.path.insert(0, {str(stock)!r})
    import f_stock as s
    m.by_pointers(lambda: s.here(lambda: m.here(lambda: s.here(lambda: os.write(1, b"deep\\n")))))
    s.by_pointers(lambda: m.here(lambda: s.here(lambda: m.here(lambda: os.write(1, b"deep\\n")))))
    """
    assert events(run(path, code).check()) == ["deep", "deep"]


# --- the finalizing thread itself -------------------------------------------------------------------------------

OTHER_CALL = """
def callback():
    m.set(5)
    m.wait(6)
    os.write(1, b"waited for\\n")
m.one_call(callback)
m.wait(5)
atexit.register(m.set, 6)
"""


@pytest.mark.parametrize("build", ["path", "abi3"])
def test_F11_the_finalizing_thread_is_never_parked(build: str, request) -> None:
    """After the guards are closed, module teardown closes a stream, and the library calls back on this same thread.

    RED before on 3.9, 3.11, 3.14 and native 3.15: hung.
    """
    lines = events(run(request.getfixturevalue(build), "stream = m.Stream()").check())
    assert lines == ["finished"]


def test_F11_the_finalizing_thread_passes_where_others_are_parked(path) -> None:
    """RED before: see above."""
    lines = events(run(path, "m.late_caller()\nstream = m.Stream()\nsys.exit(7)").check(7))
    assert lines == ["finished", "parked"]


@pytest.mark.parametrize("call", ["m.main_loop(lambda: sys.exit(3))", "m.main_loop(lambda: m.main_loop(lambda: sys.exit(3)))"])
def test_F11_sys_exit_in_a_callback_ends_the_process(path, call: str) -> None:
    """PyErr_Print exits inside PyGILState_Ensure: Py_Exit must not wait for the guard of its own thread, which nobody
    can close any more. RED before on 3.9, 3.11, 3.14 and native 3.15: hung."""
    result = run(path, f"atexit.register(os.write, 1, b'atexit\\n')\n{call}").check(3)
    assert (events(result), result.err) == (["atexit"], "")


def test_F11_sys_exit_in_a_callback_still_waits_for_the_others(path) -> None:
    """RED before on 3.9, 3.11, 3.14 and native 3.15: hung."""
    lines = events(run(path, OTHER_CALL + "m.main_loop(lambda: sys.exit(3))").check(3))
    assert lines[:1] == ["waited for"] and lines[1:] in ([], ["call finished"])


@pytest.mark.parametrize("initialized", ["recompiled", "stock"])
def test_F11_Py_FinalizeEx_inside_PyGILState_Ensure(initialized: str) -> None:
    """`PyGILState_Ensure(); Py_FinalizeEx();`, as embedding programs end. RED before on 3.9, 3.11, 3.14 and native 3.15: hung."""
    assert embed(f"finalize in {initialized} lives").check().lines() == ["finalized"] * 3


def test_F11_Py_FinalizeEx_inside_PyGILState_Ensure_waits_for_the_others() -> None:
    """In a second life of the interpreter, too. RED before on 3.9, 3.11, 3.14 and native 3.15: hung."""
    assert embed("finalize, others inside").check().lines() == ["worked", "finalized"] * 2


# --- a pending exception ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["PyGILState_Ensure", "PyInterpreterGuard_FromCurrent", "PyInterpreterView_FromCurrent"])
@pytest.mark.parametrize("where", ["main", "sub"])
def test_F11_the_first_call_keeps_a_pending_exception(first: str, where: str) -> None:
    """It sets the interpreter up, which imports and calls; a destructor in C may run while an exception is on its way.

    RED before on 3.9, 3.11 and 3.14: lost.
    """
    assert embed(f"{first} in {where}").check().lines() == ["kept"]


# --- for the limited API ----------------------------------------------------------------------------------------


def test_F11_abi3_foreign_threads_get_in(abi3) -> None:
    """RED before: parked for ever on 3.15 (the view given to the native function was ours); 3.9-3.14 were GREEN."""
    code = """
    m.by_pointers(lambda: os.write(1, b"foreign\\n"))
    m.here(lambda: m.here(lambda: os.write(1, b"main thread\\n")))
    """
    assert events(run(abi3, code).check()) == ["foreign", "main thread"]


def test_F11_abi3_a_call_that_blocks_holds_finalization(abi3) -> None:
    """RED before on 3.15, see above."""
    lines = events(run(abi3, OTHER_CALL).check())
    assert lines[:1] == ["waited for"] and lines[1:] in ([], ["call finished"])


def test_F11_abi3_a_late_caller_is_parked(abi3) -> None:
    assert events(run(abi3, "m.late_caller()\nsys.exit(7)").check(7)) == ["parked"]


def test_F11_abi3_sys_exit_in_a_callback_ends_the_process(abi3) -> None:
    """RED before on 3.9, 3.11, 3.14 and native 3.15: hung."""
    run(abi3, "m.main_loop(lambda: sys.exit(3))").check(3)
