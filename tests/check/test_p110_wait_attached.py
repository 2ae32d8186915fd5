"""P110: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        static void *worker(void *arg)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
            return NULL;
        }
        static PyObject *start(PyObject *self, PyObject *args)
        {
            pthread_create(&thread, NULL, worker, NULL);
            Py_RETURN_NONE;
        }
        static PyObject *stop(PyObject *self, PyObject *args)
        {
            pthread_join(thread, NULL);  /* want: P110 */
            Py_RETURN_NONE;
        }
        """,
        id="pthread_join in a method",
    ),
    pytest.param(
        """
        static void *worker(void *arg)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
            return NULL;
        }
        static void run(void)
        {
            pthread_create(&thread, NULL, worker, NULL);
            PyGILState_STATE state = PyGILState_Ensure();
            pthread_join(thread, NULL);  /* want: P110 */
            PyGILState_Release(state);
        }
        """,
        id="between Ensure and Release",
    ),
]

NOOP = [
    pytest.param(
        """
        static void *worker(void *arg)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
            return NULL;
        }
        static PyObject *stop(PyObject *self, PyObject *args)
        {
            pthread_create(&thread, NULL, worker, NULL);
            Py_BEGIN_ALLOW_THREADS
            pthread_join(thread, NULL);
            Py_END_ALLOW_THREADS
            Py_RETURN_NONE;
        }
        """,
        id="detached around the wait",
    ),
    pytest.param(
        """
        static void *worker(void *arg) { compute(arg); return NULL; }
        static void on_event(void) { PyGILState_Release(PyGILState_Ensure()); }
        static PyObject *stop(PyObject *self, PyObject *args)
        {
            pthread_create(&thread, NULL, worker, NULL);
            pthread_join(thread, NULL);
            Py_RETURN_NONE;
        }
        """,
        id="a thread that never attaches",
    ),
    pytest.param(
        """
        static void *worker(void *arg)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
            return NULL;
        }
        void stop(void)
        {
            pthread_create(&thread, NULL, worker, NULL);
            pthread_join(thread, NULL);
        }
        """,
        id="nobody knows whether it is attached",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P110" in source
    checker("P110", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P110", source)


CPP = """
#include <thread>
#include <vector>
static std::vector<std::thread> workers;
static std::string names;

static PyObject *start(PyObject *self, PyObject *args)
{
    workers.emplace_back([] { py::gil_scoped_acquire gil; work(); });
    Py_RETURN_NONE;
}

static PyObject *stop(PyObject *self, PyObject *separator)
{
    %s
    Py_RETURN_NONE;
}
"""


@pytest.mark.parametrize(
    "body, found",
    [
        ("for (auto &worker : workers) worker.join();  // want: P110", True),
        ("workers[0].join();  // want: P110", True),
        ("std::thread last = take(); last.join();  // want: P110", True),
        ("py::gil_scoped_release nogil; for (auto &worker : workers) worker.join();", False),
        ("{ py::gil_scoped_release nogil; workers[0].join(); } PyErr_Clear();", False),
        ("{ py::gil_scoped_release nogil; work(); } workers[0].join();  // want: P110", True),
        ("auto text = names.join();", False),
    ],
)
def test_cpp_threads(checker, body, found):
    assert ("want" in body) == found
    checker("P110", CPP % body, name="x.cpp")
