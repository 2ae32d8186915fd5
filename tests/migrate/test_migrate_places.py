"""An Ensure in a condition, a loop or a switch: what a return would skip there is asked, or the site is left alone."""

from __future__ import annotations

import pytest

MIGRATED = [
    pytest.param(
        """
        static void on_event(PyObject *handler)
        {
            PyGILState_STATE s;
            if (handler != NULL) {
                s = PyGILState_Ensure();
                Py_DECREF(handler);
                PyGILState_Release(s);
            }
        }
        """,
        """
        static void on_event(PyObject *handler)
        {
            PyThreadStateToken *s;
            if (handler != NULL) {
                s = PyThreadState_EnsureFromView(view);
                if (s == NULL) {
                    return;
                }
                Py_DECREF(handler);
                PyThreadState_Release(s);
            }
        }
        """,
        id="in a condition",
    ),
    pytest.param(
        """
        static void on_event(PyObject *handler, int kind)
        {
            switch (kind) {
            case 1: {
                PyGILState_STATE s = PyGILState_Ensure();
                if (PyObject_IsTrue(handler)) {
                    PyGILState_Release(s);
                    break;
                }
                Py_DECREF(handler);
                PyGILState_Release(s);
                break;
            }
            case 2:
                pass_on(handler);
            }
        }
        """,
        """
        static void on_event(PyObject *handler, int kind)
        {
            switch (kind) {
            case 1: {
                PyThreadStateToken *s = PyThreadState_EnsureFromView(view);
                if (s == NULL) {
                    return;
                }
                if (PyObject_IsTrue(handler)) {
                    PyThreadState_Release(s);
                    break;
                }
                Py_DECREF(handler);
                PyThreadState_Release(s);
                break;
            }
            case 2:
                pass_on(handler);
            }
        }
        """,
        id="in a switch: two releases, and a case that is not for this event",
    ),
    pytest.param(
        """
        static void on_event(PyObject **handlers, int count)
        {
            int at;
            for (at = 0; at < count; at++) {
                if (handlers[at] == NULL)
                    continue;
                PyGILState_STATE s = PyGILState_Ensure();
                Py_CLEAR(handlers[at]);
                PyGILState_Release(s);
            }
        }
        """,
        """
        static void on_event(PyObject **handlers, int count)
        {
            int at;
            for (at = 0; at < count; at++) {
                if (handlers[at] == NULL)
                    continue;
                PyThreadStateToken *s = PyThreadState_EnsureFromView(view);
                if (s == NULL) {
                    return;
                }
                Py_CLEAR(handlers[at]);
                PyThreadState_Release(s);
            }
        }
        """,
        id="in a loop that does nothing else",
    ),
    pytest.param(
        """
        static void on_event(PyObject *handler)
        {
            do {
                log_event();
                PyGILState_STATE s = PyGILState_Ensure();
                Py_DECREF(handler);
                PyGILState_Release(s);
            } while (0);
        }
        """,
        """
        static void on_event(PyObject *handler)
        {
            do {
                log_event();
                PyThreadStateToken *s = PyThreadState_EnsureFromView(view);
                if (s == NULL) {
                    return;
                }
                Py_DECREF(handler);
                PyThreadState_Release(s);
            } while (0);
        }
        """,
        id="in a block that runs once",
    ),
]

ASKED = [
    pytest.param(
        """
        void f(PyObject *handler)
        {
            if (handler != NULL) {
                PyGILState_STATE s = PyGILState_Ensure();
                Py_DECREF(handler);
                PyGILState_Release(s);
            }
            pass_on();
        }
        """,
        "`pass_on()` in line 11 is outside of the pair",
        id="work behind the condition",
    ),
    pytest.param(
        """
        void f(struct Queue *queue)
        {
            while (wait_for_more(queue)) {
                PyGILState_STATE s = PyGILState_Ensure();
                PyErr_Print();
                PyGILState_Release(s);
            }
        }
        """,
        "`wait_for_more(queue)` in line 6 is in a loop that is left on failure",
        id="the loop's condition",
    ),
    pytest.param(
        """
        void f(struct Queue *queue)
        {
            for (;;) {
                PyGILState_STATE s = PyGILState_Ensure();
                PyErr_Print();
                PyGILState_Release(s);
                if (queue->closed)
                    break;
                queue->seen++;
            }
        }
        """,
        "`queue->seen++` in line 12 is in a loop that is left on failure",
        id="work in the loop",
    ),
    pytest.param(
        """
        void f(PyObject *handler, int kind)
        {
            switch (kind) {
            case 1: {
                PyGILState_STATE s = PyGILState_Ensure();
                Py_DECREF(handler);
                PyGILState_Release(s);
            }
            case 2:
                pass_on();
            }
        }
        """,
        "`pass_on()` in line 13 is outside of the pair",
        id="a case that falls through",
    ),
]

SKIPPED = [
    pytest.param(
        """
        void f(PyObject *handler)
        {
            PyGILState_STATE s;
            if (handler != NULL)
                s = PyGILState_Ensure();
            Py_XDECREF(handler);
            if (handler != NULL)
                PyGILState_Release(s);
        }
        """,
        "is in no block of its own",
        id="no block",
    ),
    pytest.param(
        """
        void f(PyObject *handler)
        {
            PyGILState_STATE s;
            if (handler != NULL) {
                s = PyGILState_Ensure();
            }
            Py_XDECREF(handler);
            if (handler != NULL) {
                PyGILState_Release(s);
            }
        }
        """,
        "may also be reached without PyGILState_Ensure",
        id="two conditions that only a reader can tell are one",
    ),
    pytest.param(
        """
        void f(int count)
        {
            PyGILState_STATE s;
            while (count--) {
                s = PyGILState_Ensure();
            }
            PyGILState_Release(s);
        }
        """,
        "another state, token or guard is held",
        id="taken again and again",
    ),
]


@pytest.mark.parametrize("before, after", MIGRATED)
def test_migrated(migrator, before, after):
    migrator.becomes(before, after)


@pytest.mark.parametrize("text, question", ASKED)
def test_asked(migrator, text, question):
    migrator.asks(text, question)
    assert migrator.one(text, toml="[callbacks.f]\naccept = true")[0].outcome.value == "migrated"


@pytest.mark.parametrize("text, reason", SKIPPED)
def test_skipped(migrator, text, reason):
    migrator.skips(text, reason)


JUMPS = """
#define TRY(x) do { if (!(x)) goto done; } while (0)

static void on_event(PyObject *handler)
{
    PyObject *result = NULL;
    PyGILState_STATE s = PyGILState_Ensure();
    TRY(PyObject_IsTrue(handler));
    TRY(result = PyObject_CallObject(handler,
                                     NULL));
    Py_DECREF(result);
done:
    PyGILState_Release(s);
}
"""

JUMPS_AFTER = JUMPS.replace("PyGILState_STATE s", "PyThreadStateToken *s").replace(
    "PyGILState_Ensure();\n", "PyThreadState_EnsureFromView(view);\n    if (s == NULL) {\n        return;\n    }\n"
).replace("PyGILState_Release", "PyThreadState_Release")  # fmt: skip


def test_a_macro_that_jumps_is_looked_into(migrator):
    migrator.becomes(JUMPS, JUMPS_AFTER)


@pytest.mark.parametrize(
    "old, new",
    [
        ("#define TRY(x) do { if (!(x)) goto done; } while (0)", ""),
        ("goto done;", "return;"),
        ("#define", "#define TRY(x) x\n#define TRY(x) !x\n#define"),
        ("done:", "out: ; done:"),
    ],
    ids=["its definition is not there", "it returns", "three definitions", "the same"],
)
def test_other_macros(migrator, old, new):
    site, after = migrator.one(JUMPS.replace(old, new))
    if new.startswith("out"):
        assert site.outcome.value == "migrated"
    else:
        assert (site.outcome.value, after) == ("skipped", None)
