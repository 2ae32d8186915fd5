"""Pairs in macros: opened at each use if that is all the macros are, else left alone."""

from __future__ import annotations

import pytest

USE = """
void on_event(void *data)
{
    int count = 0;
    BEGIN;  /* BEGIN */
    if (data == NULL)
        goto done;
    Py_DECREF((PyObject *)data);
done:
    END;
}
"""

OPENED = """
void on_event(void *data)
{
    int count = 0;
    PyThreadStateToken *s_ = PyThreadState_EnsureFromView(view);  /* BEGIN */
    if (s_ == NULL) {
        return;
    }
    if (data == NULL)
        goto done;
    Py_DECREF((PyObject *)data);
done:
    PyThreadState_Release(s_);
}
"""

PLAIN = """
#define BEGIN PyGILState_STATE s_ = PyGILState_Ensure()
#define END PyGILState_Release(s_)
"""

BLOCK = """
#define START do
#define STOP while (0)
#define BEGIN START { \\
    PyGILState_STATE s_ = PyGILState_Ensure();
#define END PyGILState_Release(s_); \\
    } STOP
"""

OLD = """
#if PY_MAJOR_VERSION == 3 && PY_MINOR_VERSION < 7
#define BEGIN PyGILState_STATE s_; if (PyEval_ThreadsInitialized()) s_ = PyGILState_Ensure()
#define END if (PyEval_ThreadsInitialized()) PyGILState_Release(s_)
#else
#define BEGIN { PyGILState_STATE s_ = PyGILState_Ensure()
#define END PyGILState_Release(s_); }
#endif
"""


@pytest.mark.parametrize("macros", [PLAIN, BLOCK, OLD], ids=["plain", "with a block", "other ones for older Pythons"])
def test_opened(migrator, macros):
    site = migrator.becomes(macros + USE, macros + OPENED)
    assert site.notes == ("opened the macro BEGIN, which stays: remove it if nobody else uses it",)


def test_macros_in_another_file(migrator):
    report = migrator.report({"m.h": PLAIN, "x.c": "#include <Python.h>\n#include <pep788.h>\n" + USE}, 'view = "view"')
    assert [site.outcome.value for site in report.sites] == ["migrated"]
    (after,) = report.after.values()
    assert after.decode().endswith(OPENED)


def test_value(migrator):
    text = PLAIN + USE.replace("void on_event", "int on_event").replace("    END;\n", "    END;\n    return count;\n")
    migrator.asks(text, "what does on_event return (int)")
    site, after = migrator.one(text, values=("on_event=-1",))
    assert b"    if (s_ == NULL) {\n        return -1;\n    }\n" in after


OTHER = """
#ifndef THREADS
#define BEGIN
#endif
"""

SKIPPED = [
    pytest.param(BLOCK + USE.replace("BEGIN;", "BEGIN; int count = 1;"), "a name would be declared twice", id="a name of the block"),
    pytest.param(BLOCK.replace("START do", "START for (;;)") + USE, "START, in front of its block, is not known", id="a loop"),
    pytest.param(PLAIN + USE.replace("count", "s_"), "its variable s_ is used in the function, too", id="name taken"),
    pytest.param(PLAIN + USE.replace("END;", "PyGILState_Release(s_);"), "is called without a macro", id="release without"),
    pytest.param(BLOCK + USE.replace("goto done;", "{ END; return; }"), "the block that it opens is not closed beside it", id="two ends"),
]

REWRITTEN = [
    pytest.param(OTHER + PLAIN + USE, id="two definitions"),
    pytest.param(PLAIN.replace("Ensure()", "Ensure(); g()") + USE, id="more"),
    pytest.param(PLAIN.replace("END Py", "END g(); Py") + USE, id="more at the end"),
    pytest.param(PLAIN.replace("BEGIN", "BEGIN(x)") + USE.replace("BEGIN;", "BEGIN(1);"), id="parameters"),
    pytest.param(PLAIN.replace("Ensure()", "Ensure();") + USE.replace("BEGIN;", "BEGIN"), id="no semicolon"),
]


@pytest.mark.parametrize("text", REWRITTEN)
def test_what_cannot_be_opened_is_rewritten_where_it_is_defined(migrator, text):
    site, after = migrator.one(text)
    assert site.outcome.value == "migrated"
    use = USE[USE.index("{") :]
    assert after.decode().count("if (s_ == NULL) { return; }") == 1
    assert after.decode().endswith(use[-30:]) and b"PyGILState" not in after


@pytest.mark.parametrize("text, reason", SKIPPED)
def test_skipped(migrator, text, reason):
    migrator.skips(text, reason)
