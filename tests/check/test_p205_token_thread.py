"""P205: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        void f()
        {
            PyThreadStateToken *token = PyThreadState_Ensure(guard);
            if (token == NULL)
                return;
            std::thread worker([token] { PyThreadState_Release(token); });  // want: P205
            worker.join();
        }
        """,
        id="captured by a thread's lambda",
    ),
    pytest.param(
        """
        static void *run(void *data)
        {
            PyThreadStateToken *mine = static_cast<PyThreadStateToken *>(data);
            PyThreadState_Release(mine);  // want: P205
            return NULL;
        }
        static void start(void)
        {
            PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
            if (token == NULL)
                return;
            pthread_create(&thread, NULL, run, token);
        }
        """,
        id="handed to a thread as its argument",
    ),
    pytest.param(
        """
        static PyThreadStateToken *kept;
        static void *run(void *data)
        {
            PyThreadState_Release(kept);  // want: P205
            return data;
        }
        static PyObject *start(PyObject *self, PyObject *args)
        {
            kept = PyThreadState_Ensure(guard);
            if (kept == NULL)
                return NULL;
            pthread_create(&thread, NULL, run, NULL);
            Py_RETURN_NONE;
        }
        """,
        id="kept in a variable of the file",
    ),
]

NOOP = [
    pytest.param(
        """
        static PyThreadStateToken *kept;
        static void *run(void *data)
        {
            PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
            if (token != NULL)
                PyThreadState_Release(token);
            return data;
        }
        static void *other(void *data)
        {
            kept = PyThreadState_EnsureFromView(view);
            if (kept != NULL)
                PyThreadState_Release(kept);
            return data;
        }
        static PyObject *start(PyObject *self, PyObject *args)
        {
            kept = PyThreadState_Ensure(guard);
            if (kept == NULL)
                return NULL;
            pthread_create(&thread, NULL, run, NULL);
            pthread_create(&thread, NULL, other, kept);
            std::thread third([] { auto *token = PyThreadState_EnsureFromView(view); if (token) PyThreadState_Release(token); });
            PyThreadState_Release(kept);
            Py_RETURN_NONE;
        }
        """,
        id="each thread with a token of its own",
    ),
    pytest.param(
        """
        static void *run(void *data)
        {
            PyInterpreterGuard_Close((PyInterpreterGuard *)data);
            return NULL;
        }
        static void start(void)
        {
            PyInterpreterGuard *guard = PyInterpreterGuard_FromView(view);
            if (guard != NULL)
                pthread_create(&thread, NULL, run, guard);
        }
        """,
        id="a guard, which any thread may close",
    ),
    pytest.param(
        """
        static PyThreadStateToken *kept;
        static PyObject *take(PyObject *self, PyObject *args)
        {
            kept = PyThreadState_Ensure(guard);
            return PyBool_FromLong(kept != NULL);
        }
        static void *run(void *data)
        {
            take(NULL, NULL);
            PyThreadState_Release(kept);
            return data;
        }
        static void start(void) { pthread_create(&thread, NULL, run, NULL); }
        """,
        id="the thread's own function takes it",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P205" in source
    checker("P205", source, name="x.cpp")


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P205", source, name="x.cpp")


CYTHON = """
cdef PyThreadStateToken *token

cdef void *worker(void *data) noexcept nogil:
    PyThreadState_Release(%s)
    return NULL

cdef void *other(void *data) noexcept nogil:
    return NULL

def run():
    cdef pthread_t thread
    global token
    token = PyThreadState_EnsureFromView(view)
    if token == NULL:
        raise MemoryError
    for _ in range(2):
        if pthread_create(&thread, NULL, %s, token) != 0:
            raise MemoryError
    with nogil:
        pthread_join(thread, NULL)
"""


@pytest.mark.parametrize(
    "released, started, found",
    [
        ("token", "worker", True),
        ("token", "&worker", True),
        ("token", "<void *(*)(void *) noexcept nogil>worker", True),
        ("<PyThreadStateToken *>data", "worker", True),
        ("token", "other", False),
    ],
)
def test_cython(checker, released, started, found):
    source = CYTHON % (released + (")  # want: P205" if found else ")"), started)
    checker("P205", source.replace(")\n    return NULL", "\n    return NULL", 1), name="x.pyx")
