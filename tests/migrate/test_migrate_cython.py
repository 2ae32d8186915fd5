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
        on_close_attached(token)
    PyThreadState_Release(token_)


cdef void on_close_attached(void *token) noexcept:  # with gil
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
    assert "an exception that leaves it is reported as unraisable now" in report.sites[1].notes[1]
    again = run(migrator, AFTER)
    assert (again.sites, again.after) == ([], {})


def test_it_compiles_and_runs(migrator, Cython):
    (after,) = run(migrator, SOURCE).after.values()
    folder = support.BUILD / "migrated"
    folder.mkdir(parents=True, exist_ok=True)
    pyx, output = folder / "split_pyx.pyx", folder / "split_pyx.c"
    pyx.write_bytes(after)
    done = subprocess.run([sys.executable, "-m", "cython", "-3", "-Wextra", str(pyx), "-o", str(output)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0 and "warning" not in done.stdout, done.stdout
    module = support.build_extension("split_pyx", [output], extra=["-Wno-unused-function"])
    program = "import split_pyx; seen = []\ndef f(n): seen.append(n); return 2 * (n or 0)\nprint(split_pyx.run(f, 21), seen)"
    assert support.run_child(program, path=[module]).check().out == "42 [None, 21]\n"


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
    assert [note.split(" ")[1:] for note in report.notes] == [f"was generated from {migrator.folder.as_posix()}/x.pyx: generate it again".split()]


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


def test_by_decision(migrator, Cython):
    for toml in ("[callbacks.on_close]\nskip = 'it is fine'", 'view = "v"', "[callbacks.on_close]\nbefore = 'f();'"):
        report = run(migrator, SOURCE, toml)
        assert ({site.outcome.value for site in report.sites}, report.after) == ({"skipped"}, {})
