"""A class that attaches in its constructor: it gets a token and each user a test, or all of it stays."""

from __future__ import annotations

import pytest

CLASS = """
class GilLock {
public:
    GilLock() : state_(PyGILState_Ensure()) {}
    ~GilLock() { PyGILState_Release(state_); }
    GilLock(const GilLock &) = delete;

private:
    PyGILState_STATE state_;
};
"""

AFTER = """
class GilLock {
public:
    GilLock() : state_(PyThreadState_EnsureFromView(view)) {}
    ~GilLock() { if (state_ != NULL) { PyThreadState_Release(state_); } }
    explicit operator bool() const { return state_ != NULL; }
    GilLock(const GilLock &) = delete;

private:
    PyThreadStateToken *state_;
};
"""

USERS = """
static void on_event(void *data)
{
    GilLock lock;
    Py_DECREF((PyObject *)data);
}

int on_data(void *data)
{
    if (data) {
        GilLock lock;
        Py_DECREF((PyObject *)data);
    }
    return 0;
}
"""

USERS_AFTER = """
static void on_event(void *data)
{
    GilLock lock;
    if (!lock) {
        return;
    }
    Py_DECREF((PyObject *)data);
}

int on_data(void *data)
{
    if (data) {
        GilLock lock;
        if (!lock) {
            return -1;
        }
        Py_DECREF((PyObject *)data);
    }
    return 0;
}
"""

BODY = """
struct GilLock {
    GilLock()
    {
        state = PyGILState_Ensure();
    }
    ~GilLock()
    {
        PyGILState_Release(state);
    }
    PyGILState_STATE state;
};
"""

BODY_AFTER = """
struct GilLock {
    GilLock()
    {
        state = PyThreadState_EnsureFromView(view);
    }
    ~GilLock()
    {
        if (state != NULL) { PyThreadState_Release(state); }
    }
    explicit operator bool() const { return state != NULL; }
    PyThreadStateToken *state;
};
"""

HEAD = "#include <Python.h>\n#include <pep788.h>\n"
VALUES = ("on_data=-1",)


def run(migrator, text, values=VALUES, toml=""):
    return migrator.report({"x.cpp": HEAD + text}, 'view = "view"\n' + toml, values)


@pytest.mark.parametrize("before, after", [(CLASS, AFTER), (BODY, BODY_AFTER)], ids=["a list", "a body"])
def test_migrated(migrator, before, after):
    report = run(migrator, before + USERS)
    assert [(site.outcome.value, site.reason) for site in report.sites] == [("migrated", "")] * 3
    assert [data.decode() for data in report.after.values()] == [HEAD + after + USERS_AFTER]
    assert "its 2 users test it" in report.sites[0].notes[0]
    again = run(migrator, after + USERS_AFTER)
    assert (again.sites, again.after) == ([], {})


def test_a_view_of_the_module(migrator):
    init = "PyMODINIT_FUNC PyInit_x(void)\n{\n    return PyModule_Create(&definition);\n}\n"
    report = migrator.report({"x.cpp": HEAD + CLASS + USERS + init}, values=VALUES)
    (after,) = (data.decode() for data in report.after.values())
    assert "state_(PyThreadState_EnsureFromView(x_main_view))" in after and "if (Pep788_Init() < 0)" in after


def test_asked(migrator):
    report = run(migrator, CLASS + USERS, values=())
    assert ([site.outcome.value for site in report.sites], report.after) == (["needs a decision"] * 3, {})
    assert "what does on_data return (int)" in report.sites[-1].reason


def test_in_a_header(migrator):
    files = {"x.hpp": HEAD + CLASS, "x.cpp": HEAD + USERS}
    report = migrator.report(files, 'view = "view"', VALUES)
    assert {site.outcome.value for site in report.sites} == {"needs a decision"}
    assert "is GilLock used outside of this tree?" in next(s for s in report.sites if s.span.path.endswith(".hpp")).reason
    report = migrator.report(files, 'view = "view"\n[callbacks."GilLock::GilLock"]\naccept = true', VALUES)
    assert {site.outcome.value for site in report.sites} == {"migrated"}


TWINS = [
    pytest.param(CLASS + USERS + "GilLock *make() { return new GilLock; }\n", "it is used otherwise", id="new"),
    pytest.param(CLASS + USERS + "struct Holder { GilLock lock; };\n", "it is used otherwise", id="a member"),
    pytest.param(CLASS + USERS + "void f() { std::unique_ptr<GilLock> p; }\n", "it is used otherwise", id="a template"),
    pytest.param(CLASS + USERS + "#define LOCKED GilLock here\n", "it is used otherwise", id="a macro"),
    pytest.param(CLASS + USERS + "void f() { static GilLock lock; }\n", "it is static", id="static"),
    pytest.param(CLASS + USERS + "void f() { if (x()) GilLock lock; }\n", "it is used otherwise", id="no block"),
    pytest.param(CLASS + USERS + "struct S { S() { GilLock lock; f(); } };\n", "it is used in a constructor", id="a constructor"),
    pytest.param(CLASS + USERS + "auto f = [] { GilLock lock; return g(); };\n", "a lambda that returns something", id="a lambda"),
    pytest.param(CLASS.replace("GilLock {", "GilLock : Base {") + USERS, "it has a base", id="a base"),
    pytest.param(CLASS.replace("{}", "{ log(); }", 1) + USERS, "its constructor does more", id="more in the constructor"),
    pytest.param(CLASS.replace("{ PyGIL", "{ log(); PyGIL") + USERS, "its destructor does more", id="more in the destructor"),
    pytest.param(CLASS.replace("private:", "    void drop() { PyGILState_Release(state_); }\nprivate:") + USERS, "it has more than a state", id="a method"),
    pytest.param(CLASS.replace("PyGILState_STATE state_", "int state_") + USERS, "it has more than a state", id="a wrong type"),
]  # fmt: skip


@pytest.mark.parametrize("text, reason", TWINS)
def test_left_alone(migrator, text, reason):
    report = run(migrator, text)
    assert report.after == {}
    (site,) = report.sites
    assert site.outcome.value == "skipped" and reason in site.reason


def test_users_in_other_languages(migrator):
    files = {"x.cpp": HEAD + CLASS + USERS, "y.pyx": "cdef extern from *:\n    cppclass GilLock:\n        pass\n"}
    report = migrator.report(files, 'view = "view"', VALUES)
    assert ([site.outcome.value for site in report.sites], report.after) == (["skipped"], {})
