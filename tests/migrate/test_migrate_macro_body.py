"""Macros that do more than a pair can be opened for: rewritten where they are, with all their uses, or not at all."""

from __future__ import annotations

import pytest

MACROS = """
#define LOCK() \\
    PyGILState_STATE state_; \\
    state_ = PyGILState_Ensure();
#define UNLOCK() PyGILState_Release(state_);
#define PROLOGUE(call) \\
    int result = -1; \\
    PyObject *value; \\
    LOCK(); \\
    value = call; /* a new reference */ \\
    if (!value) { \\
        PyErr_Print(); \\
        goto OUT; \\
    }
#define EPILOGUE \\
    Py_DECREF(value); \\
OUT: \\
    UNLOCK(); \\
    return result;
"""

USES = """
static int on_read(PyObject *handler)
{
    PROLOGUE( PyObject_CallNoArgs(handler) )
    result = 0;
    EPILOGUE
}

static int on_write(PyObject *handler, int count)
{
#ifdef ONE
    PROLOGUE( PyObject_CallFunction(handler, "i", count) )
#else
    PROLOGUE( PyObject_CallFunction(handler,
#ifdef TWO
                                    "i",
#else
                                    "l",
#endif
                                    count) )
#endif
    result = count;
    EPILOGUE
}
"""

VOID = """
static void on_close(PyObject *handler)
{
    LOCK();
    Py_DECREF(handler);
    UNLOCK();
}
"""

VALUES = ("on_read=-2", "on_write=-2")
HEAD = "#include <Python.h>\n#include <pep788.h>\n"
VIEW = 'view = "view"\n'


def diff(report):
    (path,) = report.after
    before, after = (text.decode().splitlines() for text in (report.before[path], report.after[path]))
    return [line for line in before if line not in after], [line for line in after if line not in before]


def run(migrator, text, values=VALUES, toml="", name="x.c"):
    return migrator.report({name: HEAD + text}, VIEW + toml, values)


def outcomes(report):
    return [site.outcome.value for site in report.sites]


def test_one_value_is_written_into_the_macro(migrator):
    report = run(migrator, MACROS + USES)
    assert outcomes(report) == ["migrated"] * 3
    gone, new = diff(report)
    assert gone == [
        "    PyGILState_STATE state_; \\",
        "    state_ = PyGILState_Ensure();",
        "#define UNLOCK() PyGILState_Release(state_);",
    ]
    assert new == [
        "    PyThreadStateToken *state_; \\",
        "    state_ = PyThreadState_EnsureFromView(view); \\",
        "    if (state_ == NULL) { return -2; }",
        "#define UNLOCK() PyThreadState_Release(state_);",
    ]
    assert all("by the macro LOCK" in site.notes[0] for site in report.sites)


def test_other_values_are_an_argument_of_the_macro_and_written_into_the_one_around_it(migrator):
    report = run(migrator, MACROS + USES + VOID)
    assert outcomes(report) == ["migrated"] * 4
    gone, new = diff(report)
    assert [line for line in gone if "LOCK()" in line and "UNLOCK" not in line] == ["#define LOCK() \\", "    LOCK(); \\"]
    assert [line for line in new if "LOCK(" in line and "UNLOCK" not in line] == ["#define LOCK(too_late) \\", "    LOCK(-2); \\"]
    assert "    if (state_ == NULL) { return too_late; }" in new
    assert b"    LOCK();\n    Py_DECREF(handler);" in next(iter(report.after.values()))


def test_an_argument_of_both(migrator):
    report = run(migrator, MACROS + USES, values=("on_read=-2", "on_write=0"))
    assert outcomes(report) == ["migrated"] * 3
    _, new = diff(report)
    assert [line for line in new if "PROLOGUE" in line] == [
        "#define PROLOGUE(call, too_late) \\",
        "    PROLOGUE( PyObject_CallNoArgs(handler), -2 )",
        '    PROLOGUE( PyObject_CallFunction(handler, "i", count), 0 )',
    ]
    assert "    LOCK(too_late); \\" in new and "                                    count), 0 )" in new


OBJECT = """
#if PY_MAJOR_VERSION < 3
#define LOCK
#define UNLOCK
#else
#define LOCK PyGILState_STATE state_ = PyGILState_Ensure(); log_lock();
#define UNLOCK PyGILState_Release(state_);
#endif

void f(PyObject *o) { LOCK Py_DECREF(o); UNLOCK }
int g(PyObject *o)
{
    LOCK
    Py_DECREF(o);
    UNLOCK
    return 0;
}
"""

OBJECT_AFTER = """
#if PY_MAJOR_VERSION < 3
#define LOCK(too_late)
#define UNLOCK
#else
#define LOCK(too_late) PyThreadStateToken *state_ = PyThreadState_EnsureFromView(view); if (state_ == NULL) { return too_late; } log_lock();
#define UNLOCK PyThreadState_Release(state_);
#endif

void f(PyObject *o) { LOCK() Py_DECREF(o); UNLOCK }
int g(PyObject *o)
{
    LOCK(-1)
    Py_DECREF(o);
    UNLOCK
    return 0;
}
"""


def test_a_macro_without_parameters(migrator):
    report = run(migrator, OBJECT, values=("g=-1",), toml="[callbacks.f]\naccept = true\n[callbacks.g]\naccept = true\nvalue = '-1'")
    assert [data.decode() for data in report.after.values()] == [HEAD + OBJECT_AFTER]


def test_all_or_nothing(migrator):
    report = run(migrator, MACROS + USES, values=("on_read=-2",))
    assert (outcomes(report), report.after) == (["needs a decision"] * 3, {})
    assert "the macro LOCK changes with all its uses: see" in report.sites[0].reason
    assert "what does on_write return (int)" in report.sites[1].reason


def test_a_header_may_be_used_by_others(migrator):
    files = {"m.h": MACROS, "x.c": HEAD + '#include "m.h"\n' + USES}
    report = migrator.report(files, VIEW, VALUES)
    assert (set(outcomes(report)), report.after) == ({"needs a decision"}, {})
    assert "is LOCK (" in report.sites[0].reason and "used outside of this tree?" in report.sites[0].reason
    report = migrator.report(files, VIEW + "[callbacks.LOCK]\naccept = true", VALUES)
    assert outcomes(report) == ["migrated"] * 3
    assert [path.rsplit("/", 1)[-1] for path in report.after] == ["m.h"]


TWINS = [
    pytest.param(MACROS + USES + "\nvoid f(void) { weird(LOCK); }\n", "is in no function that was understood", id="not called"),
    pytest.param(MACROS + USES + "\nLOCK()\n", "is in no function that was understood", id="outside"),
    pytest.param(MACROS + USES.replace("    result = 0;\n    EPILOGUE", "OUT:\n    return result;"), "on_read: it is released in another function", id="no release"),
    pytest.param(MACROS + USES + "\nvoid f(void) { UNLOCK(); }\n", "f uses UNLOCK alone", id="a release alone"),
    pytest.param(MACROS.replace("state_; ", "state_, other; ") + USES, "declared more than once, or with other", id="declared with others"),
    pytest.param(MACROS.replace("UNLOCK(); ", "UNLOCK(); too_late(); ") + USES, "too_late is used in it", id="the argument's name"),
    pytest.param("#ifdef NO\n#define UNLOCK() unlock_all();\n#endif\n" + MACROS + USES, "UNLOCK has another definition", id="another definition"),
    pytest.param(MACROS + "#define SPARE() LOCK();\n" + USES + VOID, "SPARE is not used in this tree", id="one that is not used"),
    pytest.param(MACROS.replace("PyGILState_STATE", "int") + USES, "state_ is kept as int", id="a wrong type"),
    pytest.param(MACROS + "/* pep788: ignore-file */\n" + USES, "", id="ignored"),
]


@pytest.mark.parametrize("text, reason", TWINS)
def test_left_alone(migrator, text, reason):
    report = run(migrator, text)
    assert report.after == {}
    assert set(outcomes(report)) == {"skipped"}
    if reason:
        (tail,) = {site.reason.split("the macro LOCK itself cannot be changed: ")[1] for site in report.sites}
        assert reason in tail


def test_a_use_that_is_to_stay(migrator):
    report = run(migrator, MACROS + USES, toml="[callbacks.on_read]\nskip = 'it cannot fail'")
    assert (set(outcomes(report)), report.after) == ({"skipped"}, {})
    assert "on_read is to stay, by decision" in report.sites[-1].reason


def test_a_second_run_changes_nothing(migrator):
    (after,) = run(migrator, MACROS + USES + VOID).after.values()
    report = migrator.report({"x.c": after}, VIEW, VALUES)
    assert (report.sites, report.after) == ([], {})
