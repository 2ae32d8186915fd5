"""Bytes outside of the reported edits stay; line ends, tabs and encodings are kept; a second run changes nothing."""

from __future__ import annotations

import shutil
import subprocess

import pytest

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from pep788_tools.migrate import edits  # noqa: E402

SETTINGS = settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))

SOURCE = """\
#include <Python.h>

/* caf\xe9 */
static int on_event(void *data)
{
\tPyGILState_STATE state = PyGILState_Ensure();  /* caf\xe9 */
\tint result = PyObject_IsTrue((PyObject *)data);\x0c
\tPyGILState_Release(state);
\treturn result;
}

PyMODINIT_FUNC PyInit_x(void)
{
\treturn PyModule_Create(&definition);
}"""

EDITED = """\
#include <Python.h>
#include <pep788.h>

static PyInterpreterView *x_main_view;

/* caf\xe9 */
static int on_event(void *data)
{
\tPyThreadStateToken *state = PyThreadState_EnsureFromView(x_main_view);  /* caf\xe9 */
\tif (state == NULL) {
\t\treturn 0;
\t}
\tint result = PyObject_IsTrue((PyObject *)data);\x0c
\tPyThreadState_Release(state);
\treturn result;
}

PyMODINIT_FUNC PyInit_x(void)
{
\tif (Pep788_Init() < 0) {
\t\treturn NULL;
\t}
\tif (x_main_view == NULL && (x_main_view = PyInterpreterView_FromMain()) == NULL) {
\t\tPyErr_NoMemory();
\t\treturn NULL;
\t}
\treturn PyModule_Create(&definition);
}"""


def migrated(migrator, data: bytes):
    report = migrator.report({"x.c": data}, values=("on_event=0",))
    path = f"{migrator.folder.as_posix()}/x.c"
    return report, report.after.get(path, data)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_layout_is_kept(migrator, encoding, newline, end):
    report, after = migrated(migrator, (SOURCE + end).replace("\n", newline).encode(encoding))
    assert [site.reason for site in report.sites] == [""]
    assert after == (EDITED + end).replace("\n", newline).encode(encoding)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_second_run_changes_nothing(migrator, newline):
    _, after = migrated(migrator, SOURCE.replace("\n", newline).encode())
    report, again = migrated(migrator, after)
    assert (report.sites, report.after, again) == ([], {}, after)


PIECES = st.sampled_from(
    [
        *"{ } ( ) ; , * \n \r\n \t \\\n # /* */ // %{ %} caf\xe9 \x0c".split(" "),
        *"if(x) else for(;;) while(x) return; goto out; out: switch(x) case 1: break; static int void".split(),
        "\nvoid f(void)\n{\n",
        "\n}\n",
        "PyGILState_STATE s = PyGILState_Ensure();",
        "PyGILState_STATE s;\n",
        "s = PyGILState_Ensure(); // c\n",
        "PyGILState_Release(s);\n",
        "PyErr_Print();",
        "#include <Python.h>\n",
        "#define M PyGILState_Ensure()\n",
        "#define LOCK() PyGILState_STATE s; \\\n s = PyGILState_Ensure(); x();\n",
        "#define OUTER(x) int y; LOCK(); if (!x) goto out;\n#define UNLOCK PyGILState_Release(s)\n",
        "LOCK() ",
        "OUTER(1)",
        "UNLOCK;",
        "#if PY_MAJOR_VERSION < 3\n",
        "#ifdef X\n",
        "#else\n",
        "#endif\n",
        "PyMODINIT_FUNC PyInit_x(void)\n{\n",
        "return PyModule_Create(&d);\n}\n",
        "[](int x) {",
        "class C { C() {",
        "class C { public: C() : s(PyGILState_Ensure()) {} ~C() { PyGILState_Release(s); } PyGILState_STATE s; };\n",
        "C c; ",
        "namespace py = pybind11;\n",
        "py::gil_scoped_acquire gil; ",
        "PYBIND11_MODULE(x, m) { ",
        "typedef struct { PyObject *o; int i; } T;\n",
        "T *t = (T *)data; ",
        "T *t = malloc(sizeof(T)); if (!t) return NULL; ",
        "free(t); ",
        "t->o; ",
        "static PyObject *g(PyObject *a, PyObject *b) { ",
        "Py_BEGIN_ALLOW_THREADS",
    ]
)
AROUND = st.lists(PIECES, max_size=12).map("".join)
WHOLE = st.tuples(AROUND, st.sampled_from([SOURCE, ""]), AROUND).map("".join)


@SETTINGS
@given(
    text=WHOLE,
    encoding=st.sampled_from(["utf-8", "latin-1"]),
    name=st.sampled_from(["x.c", "x.cpp", "x.i", "x.h"]),
    view=st.sampled_from(["", "view"]),
)
def test_only_reported_edits_change_bytes(migrator, text, encoding, name, view):
    data = text.encode(encoding)
    for old in migrator.folder.iterdir():
        old.unlink()
    only_reported_edits(migrator, {name: data}, toml=f'view = "{view}"')


def only_reported_edits(migrator, files, toml):
    """Nothing is raised, only reported edits change bytes, and a second run changes nothing."""
    report = migrator.report(files, toml=toml, values=("on_event=0",))
    top = len(migrator.folder.as_posix()) + 1
    for path, after in report.after.items():
        edited = [edit for site in report.sites for edit in site.edits if site.span.path == path]
        edited += report.set_up.get(path, [])
        at, expected, data = 0, b"", files[path[top:]]
        for edit in sorted(edited, key=lambda one: (one.start, one.end)):
            expected += data[at : edit.start] + edit.text.encode("utf-8", "surrogateescape")
            at = edit.end
        assert after == expected + data[at:]
    again = migrator.report({**files, **{path[top:]: data for path, data in report.after.items()}}, toml, ("on_event=0",))
    assert again.after == {}
    assert all(site.outcome.value != "failed" or site.reason for site in report.sites)


CYTHON = """\
ctypedef int (*on_event_t)(void *data) noexcept with gil

cdef int on_event(void *data) noexcept with gil:
    return bool(<object>data)

register(&on_event)
"""
MARKS = [b"\0", b"\xff\xfe", b"\r", b"\n" * 3, b"\\\n", b'"', b"'''", b"/*", b"((((", b"}}}}", b"caf\xc3\xa9", b"with gil"]
JUNK = st.one_of(st.binary(max_size=40), st.sampled_from(MARKS))


@SETTINGS
@given(
    source=st.sampled_from([SOURCE, CYTHON, CYTHON.replace("noexcept", "except *").replace("int on", "void on"), ""]),
    junk=st.lists(st.tuples(st.floats(0, 1), JUNK), max_size=4),
    name=st.sampled_from(["x.c", "x.cc", "x.i", "x.pyx", "x.pxd", "x.h"]),
)
def test_any_bytes(migrator, source, junk, name):
    data = source.encode()
    for where, piece in junk:
        at = int(where * len(data))
        data = data[:at] + piece + data[at:]
    for old in migrator.folder.iterdir():
        old.unlink()
    only_reported_edits(migrator, {name: data}, toml="")


@pytest.mark.parametrize("before, after", [(b"", b"a"), (b"a", b"a\n"), (b"a\r\nb", b"a\r\nc\x0cd\re\n"), (b"\xff\n", b"\xfe\n")])
def test_git_applies_the_diff(tmp_path, before, after):
    if shutil.which("git") is None:
        pytest.skip("needs git")
    (tmp_path / "x.c").write_bytes(before)
    patch = edits.diff("x.c", before, after)
    words = ["git", "-c", "core.autocrlf=false", "apply", "--unidiff-zero", "--whitespace=nowarn", "-"]
    done = subprocess.run(words, input=patch, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, (patch, done.stdout)
    assert (tmp_path / "x.c").read_bytes() == after
