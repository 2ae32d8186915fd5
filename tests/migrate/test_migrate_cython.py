"""Cython functions declared `with gil`: split where C alone calls them, else left alone with the reason."""

from __future__ import annotations

import subprocess
import sys

import pytest
import support

SOURCE = """\
# cython: language_level=3
ctypedef int (*callback_t)(void *data,
                           int number) noexcept with gil
ctypedef void (*closed_t)(void *data) except * with gil

# The callbacks.
cdef int on_data(void *data, int number) noexcept with gil:
    \"\"\"Says with gil, in a string.\"\"\"
    return (<object>data)(number)


cdef void on_close(void *token) except * with gil:  # with gil
    (<object>token)(None)


cdef int call(callback_t callback, closed_t closed, void *data, int number) noexcept nogil:
    closed(data)
    return callback(data, number)


def run(handler, int number):
    cdef int result
    cdef void *data = <void *>handler
    with nogil:
        result = call(&on_data, on_close, data, number)
    return result


cdef extern from *:
    \"\"\"
    static void close_it(void (*closed)(void *), void *data) { closed(data); }
    \"\"\"
    void close_it(closed_t closed, void *data) except *


def close(handler):
    close_it(on_close, <void *>handler)
"""

SPLIT = """\
cdef extern from "pep788.h":
    ctypedef struct PyInterpreterView:
        pass
    ctypedef struct PyThreadStateToken:
        pass
    int Pep788_Init() except -1
    PyInterpreterView *PyInterpreterView_FromMain() noexcept nogil
    PyThreadStateToken *PyThreadState_EnsureFromView(PyInterpreterView *view) noexcept nogil
    void PyThreadState_Release(PyThreadStateToken *token) noexcept nogil

cdef PyInterpreterView *_pep788_view
Pep788_Init()
if _pep788_view == NULL:
    _pep788_view = PyInterpreterView_FromMain()
if _pep788_view == NULL:
    raise MemoryError


# The callbacks.
cdef int on_data(void *data, int number) noexcept nogil:
    cdef int result
    cdef PyThreadStateToken *token = PyThreadState_EnsureFromView(_pep788_view)
    if token == NULL:
        return -1
    with gil:
        result = on_data_attached(data, number)
    PyThreadState_Release(token)
    return result


cdef int on_data_attached(void *data, int number) noexcept:
    \"\"\"Says with gil, in a string.\"\"\"
    return (<object>data)(number)


cdef void on_close(void *token) noexcept nogil:
    cdef PyThreadStateToken *token_ = PyThreadState_EnsureFromView(_pep788_view)
    if token_ == NULL:
        return
    with gil:
        (<void (*)(void *token) noexcept>on_close_attached)(token)
    PyThreadState_Release(token_)


cdef void on_close_attached(void *token) except *:  # with gil
    (<object>token)(None)
"""

HEAD, REST = SOURCE.split("# The callbacks.\n")
TAIL = REST[REST.index("\n\ncdef int call") :]
AFTER = HEAD.replace("noexcept with gil", "noexcept nogil").replace("except * with gil", "noexcept nogil") + SPLIT + TAIL
VALUES = ("on_data=-1",)


def run(migrator, files, toml="", values=VALUES, **options):
    return migrator.report(files if isinstance(files, dict) else {"x.pyx": files}, toml, values, **options)


@pytest.fixture
def Cython():
    return pytest.importorskip("Cython")


def test_split(migrator, Cython):
    report = run(migrator, SOURCE)
    assert [(site.function, site.outcome.value, site.reason) for site in report.sites] == [("on_data", "migrated", ""), ("on_close", "migrated", "")]
    assert [data.decode() for data in report.after.values()] == [AFTER]
    assert [len(site.notes) for site in report.sites] == [1, 2]
    assert "an exception that leaves it is left to a caller that was attached before" in report.sites[1].notes[1]
    assert [(view.expression, view.line) for view in report.views] == [(site.view, 7) for site in report.sites[:1]] == [("_pep788_view", 7)]
    assert "_pep788_view is a view of the main interpreter" in report.notes[0]
    again = run(migrator, AFTER)
    assert (again.sites, again.after) == ([], {})


def build(name, source):
    """Cython writes it without a warning, and it is built; returns the folder of the module."""
    folder = support.BUILD / "migrated"
    folder.mkdir(parents=True, exist_ok=True)
    pyx, output = folder / f"{name}.pyx", folder / f"{name}.c"
    pyx.write_bytes(source)
    words = [sys.executable, "-m", "cython", "-3", "-Wextra", str(pyx), "-o", str(output)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0 and "warning" not in done.stdout, done.stdout
    return support.build_extension(name, [output], extra=["-O0", "-Wno-unused-function"])


def test_it_compiles_and_runs(migrator, Cython):
    (after,) = run(migrator, SOURCE).after.values()
    module = build("split_pyx", after)
    program = """
import split_pyx
seen = []
def f(n):
    seen.append(n)
    return 2 * (n or 0)
print(split_pyx.run(f, 21), seen)

def fail(n):
    raise KeyError(n)
try:
    split_pyx.close(fail)  # as python-rtmidi reports errors: the callback raises, and the method that called C looks
except KeyError as error:
    print("raised", error)
"""
    assert support.run_child(program, path=[module]).check().out == "42 [None, 21]\nraised None\n"


def test_layout_is_kept(migrator, Cython):
    data = SOURCE.replace("callbacks.", "callbacks, caf\xe9.").replace("\n", "\r\n").encode()
    report = run(migrator, data)
    assert list(report.after.values()) == [AFTER.replace("callbacks.", "callbacks, caf\xe9.").replace("\n", "\r\n").encode()]


def test_native(migrator, Cython):
    (after,) = (data.decode() for data in run(migrator, SOURCE, oldest=(3, 15)).after.values())
    assert 'cdef extern from "Python.h":\n    ctypedef struct PyInterpreterView' in after and "Pep788_Init" not in after


def test_asked(migrator, Cython):
    report = run(migrator, SOURCE, values=())
    assert ([site.outcome.value for site in report.sites], report.after) == (["needs a decision"] * 2, {})
    assert report.sites[0].reason == "what does on_data return (int) where Python is finalizing?"
    assert "change with all its functions" in report.sites[1].reason


def test_what_was_generated_is_stale(migrator, Cython):
    report = run(migrator, {"x.pyx": SOURCE, "x.c": "/* Generated by Cython 3.0 */\n"})
    assert [note.split(" ")[1:] for note in report.notes[1:]] == [f"was generated from {migrator.folder.as_posix()}/x.pyx: generate it again".split()]


ALONE = "cdef void f(void *data) %s:\n    print(1)\n\nregister(&f)\n"
TWINS = [
    pytest.param({"x.pyx": SOURCE + "\ndef twice(x):\n    on_close(<void *>x)\n"}, "on_close is called by Python code, too", id="called"),
    pytest.param({"x.pyx": SOURCE, "y.pyx": "from x cimport on_data\n"}, "on_data is used in other files", id="cimported"),
    pytest.param({"x.pyx": SOURCE, "y.pxd": "from x cimport closed_t\n"}, "closed_t is used in other files", id="its type is cimported"),
    pytest.param({"x.pyx": SOURCE.replace("on_close(void *token)", "on_close(object token)")}, "may be a Python object (object token)", id="an object"),
    pytest.param({"x.pyx": SOURCE.replace("on_close(void *token)", "on_close(Thing token)")}, "may be a Python object (Thing token)", id="an unknown type"),
    pytest.param({"x.pyx": SOURCE.replace("int number) noexcept with gil:", "int number) except -1 with gil:")}, "returns a value that stands for an exception", id="except -1"),
    pytest.param({"x.pyx": SOURCE.replace("cdef int on_data", "cdef public int on_data")}, "on_data is inline, public or api", id="public"),
    pytest.param({"x.pyx": SOURCE + "\ncdef class C:\n    cdef void f(self) noexcept with gil:\n        pass\n"}, "f is no function at the level of the module", id="a method"),
    pytest.param({"x.pyx": SOURCE + "\ncdef extern from *:\n    void set(void (*f)() noexcept with gil)\n"}, "is of something else", id="a type in a parameter"),
    pytest.param({"x.pyx": SOURCE + "\ncimport pep788\n"}, "the file uses pep788 already", id="pep788"),
    pytest.param({"x.pyx": ALONE % "except * with gil"}, "the function type of f is in another file", id="another type"),
    pytest.param({"x.pyx": SOURCE + "\ncdef void on_data_attached() noexcept:\n    pass\n"}, "on_data_attached is there already", id="the name"),
]  # fmt: skip


@pytest.mark.parametrize("files, reason", TWINS)
def test_left_alone(migrator, Cython, files, reason):
    report = run(migrator, files)
    assert report.after == {} and report.sites
    assert {site.outcome.value for site in report.sites} == {"skipped"}
    assert all(reason in site.reason and "pattern i" in site.reason for site in report.sites)


def test_no_type_is_needed_where_the_function_says_the_same(migrator, Cython):
    (after,) = (data.decode() for data in run(migrator, ALONE % "noexcept with gil").after.values())
    assert "cdef void f(void *data) noexcept nogil:\n" in after and after.endswith("cdef void f_attached(void *data) noexcept:\n    print(1)\n\nregister(&f)\n")


def test_no_exception_clause(migrator, Cython):
    """What that means depends on the version of Cython, so none is written."""
    source = SOURCE.replace("on_close(void *token) except * with gil", "on_close(void *token) with gil")
    (after,) = (data.decode() for data in run(migrator, source).after.values())
    assert "\ncdef void on_close_attached(void *token):  # with gil\n" in after


def test_by_decision(migrator, Cython):
    for toml in ("[callbacks.on_close]\nskip = 'it is fine'", 'view = "v"', "[callbacks.on_close]\nbefore = 'f();'"):
        report = run(migrator, SOURCE, toml)
        assert ({site.outcome.value for site in report.sites}, report.after) == ({"skipped"}, {})


# --- `with gil` blocks that are the whole of a nogil function ----------------------------------------------------

BLOCKS = '''\
# cython: language_level=3
ctypedef int (*callback_t)(void *data, int number) noexcept nogil

cdef int on_data(void *data, int number) noexcept nogil:
    """With gil: held."""
    cdef int result = -2
    with gil:  # the GIL

        # What is called.
        result = (<object>data)(
    number
        )
        if result == 0:
            text = """
            with gil:
        stays"""
            return len(text)
    # What it gave.
    return result


cdef void on_close(void *data) noexcept nogil:
    with gil:
        (<object>data)(None)


cdef int call(callback_t callback, void (*closed)(void *) noexcept nogil, void *data, int number) noexcept nogil:
    closed(data)
    return callback(data, number)


def run(handler, int number):
    cdef int result
    cdef void *data = <void *>handler
    with nogil:
        result = call(&on_data, on_close, data, number)
    return result
'''
SPLIT_BLOCKS = '''\
cdef int on_data(void *data, int number) noexcept nogil:
    cdef int result
    cdef PyThreadStateToken *token = PyThreadState_EnsureFromView(_pep788_view)
    if token == NULL:
        return -1
    with gil:
        result = on_data_attached(data, number)
    PyThreadState_Release(token)
    return result


cdef int on_data_attached(void *data, int number) noexcept:
    """With gil: held."""
    cdef int result = -2
    # the GIL

    # What is called.
    result = (<object>data)(
    number
    )
    if result == 0:
        text = """
            with gil:
        stays"""
        return len(text)
    # What it gave.
    return result


cdef void on_close(void *data) noexcept nogil:
    cdef PyThreadStateToken *token = PyThreadState_EnsureFromView(_pep788_view)
    if token == NULL:
        return
    with gil:
        on_close_attached(data)
    PyThreadState_Release(token)


cdef void on_close_attached(void *data) noexcept:
    (<object>data)(None)
'''
DECLARED = SPLIT[: SPLIT.index("# The callbacks.")]
BLOCKS_AFTER = BLOCKS[: BLOCKS.index("cdef int on_data")] + DECLARED + SPLIT_BLOCKS + BLOCKS[BLOCKS.index("\n\ncdef int call") :]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_blocks_are_split(migrator, Cython, line_end):
    report = run(migrator, BLOCKS.replace("\n", line_end).encode())
    assert [(site.function, site.outcome.value, site.reason) for site in report.sites] == [("on_data", "migrated", ""), ("on_close", "migrated", "")]
    assert [data.decode() for data in report.after.values()] == [BLOCKS_AFTER.replace("\n", line_end)]
    again = run(migrator, BLOCKS_AFTER)
    assert (again.sites, again.after) == ([], {})


def test_split_blocks_compile_and_run(migrator, Cython):
    (after,) = run(migrator, BLOCKS).after.values()
    module = build("split_blocks_pyx", after)
    program = "import split_blocks_pyx; seen = []\ndef f(n): seen.append(n); return 2 * (n or 0)\nprint(split_blocks_pyx.run(f, 21), split_blocks_pyx.run(f, 0), seen)"
    assert support.run_child(program, path=[module]).check().out == "42 36 [None, 21, None, 0]\n"


def test_a_block_is_migrated_although_functions_are_not(migrator, Cython):
    report = run(migrator, BLOCKS + "\ncdef int other(object x) except -1 with gil:\n    return 0\n")
    assert [(site.function, site.outcome.value) for site in report.sites] == [("on_data", "migrated"), ("on_close", "migrated"), ("other", "skipped")]
    report = run(migrator, BLOCKS + "\ncdef int other(void *x) noexcept with gil:\n    return 0\n")
    assert [site.outcome.value for site in report.sites] == ["migrated", "migrated", "needs a decision"]
    report = run(migrator, BLOCKS, values=())
    assert [site.outcome.value for site in report.sites] == ["needs a decision", "migrated"]
    assert report.sites[0].reason == "what does on_data return (int) where Python is finalizing?"


OUTSIDE = "is outside of it, and would run attached, too"
ONE = "cdef void f(void *data) noexcept nogil:\n    with gil:\n        print(1)\n\nregister(&f)\n"
BLOCK_TWINS = [
    pytest.param(ONE.replace("    with", "    lock()\n    with"), "line 2 " + OUTSIDE, id="a call before it"),
    pytest.param(ONE.replace("    with", "    cdef int x = f()\n    with"), "line 2 " + OUTSIDE, id="a call in a declaration"),
    pytest.param(ONE.replace("\n\nreg", "\n    unlock()\n\nreg"), "line 4 " + OUTSIDE, id="a call behind it"),
    pytest.param(ONE.replace("\n\nreg", "\n    with gil:\n        print(2)\n\nreg"), "line 4 " + OUTSIDE, id="two blocks"),
    pytest.param(ONE.replace("    with", "    if data:\n     with"), "line 2 " + OUTSIDE, id="in a condition"),
    pytest.param(ONE.replace("gil:\n        print", "gil: print"), "it is not on lines of its own", id="on one line"),
    pytest.param(ONE.replace("void f", "inline void f"), "f is inline, public or api", id="inline"),
    pytest.param(ONE.replace("noexcept nogil", "nogil"), "f is not noexcept", id="exceptions"),
    pytest.param(ONE.replace("void *data", "x_t data"), "may be a Python object (x_t data)", id="a parameter"),
    pytest.param(ONE + "f(NULL)\n", "f is called by Python code, too", id="called"),
    pytest.param("cdef class C:\n    cdef void f(self) noexcept nogil:\n        with gil:\n            print(self)\n", "f is no function at the level of the module", id="a method"),
    pytest.param(ONE + "cimport pep788\n", "the file uses pep788 already", id="pep788"),
]  # fmt: skip


@pytest.mark.parametrize("text, reason", BLOCK_TWINS)
def test_blocks_that_are_left_alone(migrator, Cython, text, reason):
    report = run(migrator, text)
    assert report.after == {} and report.sites
    assert {site.outcome.value for site in report.sites} == {"skipped"}
    assert reason in report.sites[0].reason and "pattern i" in report.sites[0].reason


@pytest.mark.parametrize("tail", ["", "        x = 1\n", "\n\n\n", "      # a comment\n# another\n", "\tpass\n"])
def test_where_a_block_ends(migrator, Cython, tail):
    """At the end of the file, and by what follows."""
    text = ONE.split("\nregister")[0].rstrip("\n") + "\n" + tail.replace("\tpass", "        pass")
    (after,) = (data.decode() for data in run(migrator, text).after.values())
    body = after.split("f_attached(void *data) noexcept:\n")[1]
    assert body == "    print(1)\n" + tail.replace("\tpass", "        pass").replace("        ", "    ")


def test_tabs(migrator, Cython):
    tabs = [text.replace("           int", "  int").replace("    ", "\t").replace("  int", "           int") for text in (SOURCE, AFTER)]
    assert [data.decode() for data in run(migrator, tabs[0]).after.values()] == [tabs[1]]


def test_tabs_in_a_block(migrator, Cython):
    text = ONE.replace("        ", "\t\t").replace("    with", "\twith")
    (after,) = (data.decode() for data in run(migrator, text).after.values())
    assert after.endswith("cdef void f_attached(void *data) noexcept:\n\tprint(1)\n\nregister(&f)\n")
