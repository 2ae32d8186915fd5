"""A pair in one void function: what becomes of it, and its twins that stay as they are."""

from __future__ import annotations

import pytest

MIGRATED = [
    pytest.param(
        """
        static void on_event(void *data)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyObject_CallNoArgs((PyObject *)data);
            PyGILState_Release(state);
        }
        """,
        """
        static void on_event(void *data)
        {
            PyThreadStateToken *state = PyThreadState_EnsureFromView(view);
            if (state == NULL) {
                return;
            }
            PyObject_CallNoArgs((PyObject *)data);
            PyThreadState_Release(state);
        }
        """,
        id="declared where it is assigned",
    ),
    pytest.param(
        """
        static void on_event(void *data)
        {
          PyGILState_STATE   state;   /* PyGILState_STATE */
          int count = 0;

          state=PyGILState_Ensure ( );  // PyGILState_Ensure
          PyObject_CallNoArgs((PyObject *)data);
          PyGILState_Release (state);
        }
        """,
        """
        static void on_event(void *data)
        {
          PyThreadStateToken   *state;   /* PyGILState_STATE */
          int count = 0;

          state=PyThreadState_EnsureFromView(view);  // PyGILState_Ensure
          if (state == NULL) {
            return;
          }
          PyObject_CallNoArgs((PyObject *)data);
          PyThreadState_Release (state);
        }
        """,
        id="declared apart, two blanks a level, comments stay",
    ),
    pytest.param(
        "void f(void *p) { PyGILState_STATE s = PyGILState_Ensure(); Py_DECREF((PyObject *)p); PyGILState_Release(s); }",
        "void f(void *p) { PyThreadStateToken *s = PyThreadState_EnsureFromView(view); if (s == NULL) { return; } "
        "Py_DECREF((PyObject *)p); PyThreadState_Release(s); }",
        id="on one line, no line end at all",
    ),
    pytest.param(
        """
        static void on_event(void *data)
        {
            int known = data != NULL;
            {
                PyGILState_STATE state = PyGILState_Ensure();
                PyObject_CallNoArgs((PyObject *)data);
                PyGILState_Release(state);
            }
        }
        """,
        """
        static void on_event(void *data)
        {
            int known = data != NULL;
            {
                PyThreadStateToken *state = PyThreadState_EnsureFromView(view);
                if (state == NULL) {
                    return;
                }
                PyObject_CallNoArgs((PyObject *)data);
                PyThreadState_Release(state);
            }
        }
        """,
        id="in a block of its own",
    ),
    pytest.param(
        """
        static void on_event(void *data)
        {
            if (data == NULL)
                return;
            PyGILState_STATE state = PyGILState_Ensure();
            if (PyObject_IsTrue((PyObject *)data)) {
                PyGILState_Release(state);
                return;
            }
            Py_DECREF((PyObject *)data);
            PyGILState_Release(state);
        }
        """,
        """
        static void on_event(void *data)
        {
            if (data == NULL)
                return;
            PyThreadStateToken *state = PyThreadState_EnsureFromView(view);
            if (state == NULL) {
                return;
            }
            if (PyObject_IsTrue((PyObject *)data)) {
                PyThreadState_Release(state);
                return;
            }
            Py_DECREF((PyObject *)data);
            PyThreadState_Release(state);
        }
        """,
        id="an early return: each release keeps its place",
    ),
    pytest.param(
        """
        static void on_event(void *data)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyObject *result = PyObject_CallNoArgs((PyObject *)data);
            if (result == NULL)
                goto done;
            Py_DECREF(result);
        done:
            PyGILState_Release(state);
        }
        """,
        """
        static void on_event(void *data)
        {
            PyThreadStateToken *state = PyThreadState_EnsureFromView(view);
            if (state == NULL) {
                return;
            }
            PyObject *result = PyObject_CallNoArgs((PyObject *)data);
            if (result == NULL)
                goto done;
            Py_DECREF(result);
        done:
            PyThreadState_Release(state);
        }
        """,
        id="a goto: the failure branch does not jump to the label that releases",
    ),
]

SKIPPED = [
    pytest.param(
        """
        void f(void)
        {
        #ifdef THREADS
            PyGILState_STATE s = PyGILState_Ensure();
        #endif
            PyErr_Print();
        #ifdef THREADS
            PyGILState_Release(s);
        #endif
        }
        """,
        "is in conditional compilation",
        id="in conditional compilation",
    ),
    pytest.param(
        """
        void f(void)
        {
            int s = PyGILState_Ensure();
            PyErr_Print();
            PyGILState_Release(s);
        }
        """,
        "s is kept as int: a token is a pointer, and may be cut off",
        id="kept in a wrong type",
    ),
    pytest.param(
        """
        struct S { PyGILState_STATE state; };
        void f(struct S *s)
        {
            s->state = PyGILState_Ensure();
            PyErr_Print();
            PyGILState_Release(s->state);
        }
        """,
        "s->state is not a local variable",
        id="kept in a struct",
    ),
    pytest.param(
        """
        void f(void)
        {
            PyGILState_STATE s = PyGILState_Ensure(), t = s;
            PyErr_Print();
            PyGILState_Release(s);
        }
        """,
        "declared more than once, or with other variables",
        id="declared with others",
    ),
    pytest.param(
        """
        void f(void)
        {
            PyGILState_STATE s = PyGILState_Ensure();
            if (s == PyGILState_LOCKED)
                PyErr_Print();
            PyGILState_Release(s);
        }
        """,
        "s is used otherwise in line 7",
        id="looked at",
    ),
    pytest.param(
        """
        void f(void)
        {
            PyGILState_STATE s = PyGILState_Ensure();
            PyErr_Print();
        #if PY_MAJOR_VERSION < 3
            keep(s);
        #endif
            PyGILState_Release(s);
        }
        """,
        "s is used in code that is not compiled on CPython 3.9 and later",
        id="looked at where only Python 2 looks",
    ),
    pytest.param(
        """
        void f(int ready)
        {
            PyGILState_STATE s;
            if (!ready)
                goto done;
            s = PyGILState_Ensure();
            PyErr_Print();
        done:
            PyGILState_Release(s);
        }
        """,
        "may also be reached without PyGILState_Ensure",
        id="released without being taken",
    ),
    pytest.param(
        """
        void f(PyObject *o)
        {
            PyGILState_STATE s = PyGILState_Ensure();
            if (PyObject_IsTrue(o))
                return;
            PyGILState_Release(s);
        }
        """,
        "a path leaves the function without PyGILState_Release",
        id="not released on a path",
    ),
    pytest.param(
        """
        int main(void)
        {
            Py_Initialize();
            PyGILState_STATE s = PyGILState_Ensure();
            PyGILState_Release(s);
            Py_Finalize();
        }
        """,
        "starts or ends Python itself",
        id="an embedding program",
    ),
    pytest.param(
        """
        void f(int size)
        {
            PyGILState_STATE s = PyGILState_Ensure();
            PyErr_Print() else;
            PyGILState_Release(s);
        }
        """,
        "its paths cannot be followed",
        id="does not parse",
    ),
]


@pytest.mark.parametrize(
    "declaration, reason",
    [
        ("const PyGILState_STATE s = PyGILState_Ensure();", "s is declared static, const or the like"),
        ("static PyGILState_STATE s; s = PyGILState_Ensure();", "s is declared static, const or the like"),
        ("State s = PyGILState_Ensure();", "s is kept as State, not as PyGILState_STATE"),
        ("auto s = PyGILState_Ensure();", "no call that was understood"),  # in C that is an int
        ("PyGILState_STATE caf\u00e9 = PyGILState_Ensure(), s = caf\u00e9;", "caf\u00e9 is not an ASCII name"),
    ],
)
def test_other_declarations(migrator, declaration, reason):
    name = "caf\u00e9" if "caf" in declaration else "s"
    migrator.skips(f"void f(void)\n{{\n    {declaration}\n    PyGILState_Release({name});\n}}\n", reason)


def test_auto(migrator):
    before = "void f()\n{\n    auto s = PyGILState_Ensure();\n    g(nullptr);\n    PyGILState_Release(s);\n}\n"
    after = "void f()\n{\n    auto s = PyThreadState_EnsureFromView(view);\n    if (s == nullptr) {\n        return;\n    }\n"
    migrator.becomes(before, after + "    g(nullptr);\n    PyThreadState_Release(s);\n}\n", name="x.cpp")


@pytest.mark.parametrize("before, after", MIGRATED)
def test_migrated(migrator, before, after):
    migrator.becomes(before, after)


@pytest.mark.parametrize("text, reason", SKIPPED)
def test_skipped(migrator, text, reason):
    migrator.skips(text, reason)


def test_a_pair_of_another_variable_that_is_held_is_in_the_way(migrator):
    text = b"""
void f(void)
{
    PyGILState_STATE a = PyGILState_Ensure();
    PyGILState_STATE b = PyGILState_Ensure();
    PyGILState_Release(b);
    PyGILState_Release(a);
}
"""
    report = migrator.report({"x.c": b"#include <Python.h>\n" + text}, 'view = "view"')
    outer, inner = report.sites
    assert outer.outcome.value == "migrated"
    assert (inner.outcome.value, "is held when" in inner.reason) == ("skipped", True)


def test_a_class_inside_with_a_constructor(migrator):
    """A declaration without a type; found in abseil-cpp."""
    text = "void f()\n{\n    struct Local { Local(); explicit Local(int number); };\n    PyGILState_STATE s = PyGILState_Ensure();\n    g(Local(1));\n    PyGILState_Release(s);\n}\n"
    site, after = migrator.one(text, name="x.cpp")
    assert site.outcome.value == "migrated" and b"PyThreadState_Release(s);" in after
