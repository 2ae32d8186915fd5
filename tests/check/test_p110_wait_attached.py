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
    pytest.param(
        """
        static void *worker(void *arg)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
            return NULL;
        }
        static void start(void) { pthread_create(&thread, NULL, worker, NULL); }
        static void wait_for_it(void) { pthread_join(thread, NULL); }
        static void stop(void)
        {
            quit = 1;
            wait_for_it();
        }
        static PyObject *close(PyObject *self, PyObject *args)
        {
            stop();  /* want: P110 */
            Py_RETURN_NONE;
        }
        """,
        id="in a helper, two calls below",
    ),
    pytest.param(
        """
        static int on_samples(const void *in, void *out)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
            return 0;
        }
        static PyObject *start(PyObject *self, PyObject *args)
        {
            Pa_OpenStream(&stream, 0, 0, 44100, 0, on_samples, NULL);
            Py_RETURN_NONE;
        }
        static PyObject *stop(PyObject *self, PyObject *args)
        {
            Pa_StopStream(stream);  /* want: P110 */
            Py_RETURN_NONE;
        }
        """,
        id="inside a library, which a callback was given to",
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
    pytest.param(
        """
        static void *worker(void *arg)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
            return NULL;
        }
        static void stop(void)
        {
            pthread_create(&thread, NULL, worker, NULL);
            pthread_join(thread, NULL);
        }
        static PyObject *close(PyObject *self, PyObject *args)
        {
            Py_BEGIN_ALLOW_THREADS
            stop();
            Py_END_ALLOW_THREADS
            Py_RETURN_NONE;
        }
        static void on_exit(void) { stop(); }
        """,
        id="a helper, called detached",
    ),
    pytest.param(
        """
        static void on_event(void)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
        }
        static PyObject *stop(PyObject *self, PyObject *args)
        {
            on_event();
            Pa_StopStream(stream);
            Py_RETURN_NONE;
        }
        """,
        id="inside a library that was given no callback",
    ),
    pytest.param(
        """
        static int on_samples(const void *in, void *out)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
            return 0;
        }
        static PyObject *stop(PyObject *self, PyObject *args)
        {
            register_it(on_samples);
            Py_BEGIN_ALLOW_THREADS
            Pa_StopStream(stream);
            Py_END_ALLOW_THREADS
            Py_RETURN_NONE;
        }
        """,
        id="inside a library, detached",
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
        ("auto last = std::async(std::launch::async, take); last.get();  // want: P110", True),
        ("std::future<int> last = take(); last.wait();  // want: P110", True),
        ("std::unique_ptr<int> last = take(); last.get();", False),
        ("auto last = take(); last.get();", False),
    ],
)
def test_cpp_threads(checker, body, found):
    assert ("want" in body) == found
    checker("P110", CPP % body, name="x.cpp")


CYTHON = """\
cdef extern from "lib.h":
    cdef cppclass Port:
        void close()
        void flush()
    int Pa_StopStream(void *stream) nogil

cdef void on_event(void *data) noexcept with gil:
    (<object> data)()

cdef class Owner:
    cdef Port *port

    def close(self):
        self.port.close()%s
        self.port.flush()

    def stop(self):
        with nogil:
            Pa_StopStream(NULL)
"""
LIBRARY = """
typedef void (*callback_t)(void *);
static void *run(void *data)
{
    %s
    return data;
}
void Port::open() { pthread_create(&thread, NULL, run, this); }
void Port::close() { pthread_join(thread, NULL); }
void Port::flush() { }
"""


@pytest.mark.parametrize(
    "body, found",
    [
        pytest.param("callback_t callback = ((Port *)data)->callback; callback(data);", True, id="calls back"),
        pytest.param("callback_t callback = NULL; compute(data);", False, id="does not"),
    ],
)
def test_cython_waits_for_a_thread_of_the_tree(checker, body, found):
    checker("P110", CYTHON % ("  # want: P110" if found else ""), name="x.pyx", lib__cpp=LIBRARY % body)


def test_cython_waits_inside_a_library(checker):
    source = CYTHON.replace("        with nogil:\n            Pa", "        if self:\n            Pa") % ""
    source = source.replace("Pa_StopStream(NULL)", "Pa_StopStream(NULL)  # want: P110")
    checker("P110", source, name="x.pyx")


CYTHON_THREADS = """
cdef extern from "<thread>" namespace "std" nogil:
    cppclass thread:
        void join()

cdef void *worker(void *data) noexcept nogil:
    %s
    return NULL

cdef class Owner:
    cdef thread *own

    def run(self):
        cdef pthread_t thread
        if pthread_create(&thread, NULL, %s, NULL) != 0:
            raise MemoryError
        %s
"""


@pytest.mark.parametrize(
    "work, started, wait, found",
    [
        ("with gil: print()", "worker", "pthread_join(thread, NULL)", True),
        ("PyGILState_Release(PyGILState_Ensure())", "&worker", "pthread_join(thread, NULL)", True),
        ("with gil: print()", "<void *(*)(void *) noexcept nogil>worker", "pthread_join(thread, NULL)", True),
        ("with gil: print()", "worker", "self.own.join()", True),
        ("compute(); a.gil()", "worker", "pthread_join(thread, NULL)", False),
        ("with gil: print()", "worker", "with nogil: pthread_join(thread, NULL)", False),
        ("with gil: print()", "worker", "', '.join(thread)", False),
        ("with gil: print()", "worker", "names.join(thread)", False),
    ],
)
def test_cython_waits_for_its_own_thread(checker, work, started, wait, found):
    checker("P110", CYTHON_THREADS % (work, started, wait + ("  # want: P110" if found else "")), name="x.pyx")


PURE = """
import cython
from cython.cimports.posix.threads import pthread_create, pthread_join, pthread_t

@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def worker(data: cython.p_void) -> cython.p_void:
    with cython.gil:
        print()
    return cython.NULL

def run():
    thread: pthread_t
    pthread_create(cython.address(thread), cython.NULL, worker, cython.NULL)
    %s
"""


@pytest.mark.parametrize("wait, found", [("pthread_join(thread, cython.NULL)", True), ("with cython.nogil: pthread_join(thread, cython.NULL)", False)])
def test_cython_in_pure_python_mode(checker, wait, found):
    checker("P110", PURE % (wait + ("  # want: P110" if found else "")), name="x.py")


def test_cython_waits_in_a_function_of_its_own(checker):
    source = CYTHON_THREADS % ("with gil: print()", "worker", "wait_for(thread)  # want: P110")
    source += "\ncdef void wait_for(pthread_t thread) noexcept nogil:\n    pthread_join(thread, NULL)\n"
    checker("P110", source, name="x.pyx")
