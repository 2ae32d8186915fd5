"""P102: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        #define LOG(text) fprintf(stderr, text)
        static int on_event(void *data)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            if (data == NULL) {
                LOG("no data");
                return -1;  /* want: P102 */
            }
            PyGILState_Release(state);
            return 0;
        }
        """,
        id="a macro that does something else",
    ),
    pytest.param(
        """
        static void on_event(void *data)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            if (data == NULL)
                return;  /* want: P102 */
            PyGILState_Release(state);
        }
        """,
        id="early return",
    ),
    pytest.param(
        """
        static int on_event(void *data)
        {
            PyGILState_STATE state;
            int result = -1;
            if (data == NULL)
                return -1;
            state = PyGILState_Ensure();
            if (PyErr_Occurred())
                goto done;
            result = 0;
            PyGILState_Release(state);
        done:
            return result;  /* want: P102 */
        }
        """,
        id="goto past the release",
    ),
    pytest.param(
        """
        static void on_event(int kind)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            switch (kind) {
            case 1:
                PyGILState_Release(state);
                return;
            default:
                return;  /* want: P102 */
            }
        }
        """,
        id="a case that forgets it",
    ),
    pytest.param(
        """
        static PyObject *on_event(void *data)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            if (data == NULL)
                Py_RETURN_NONE;  /* want: P102 */
            PyGILState_Release(state);
            return data;
        }
        """,
        id="a macro that returns",
    ),
    pytest.param(
        """
        static void on_event(void)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyRun_SimpleString("pass");
        }  /* want: P102 */
        """,
        id="never",
    ),
    pytest.param(
        """
        #define NEED(x) do { if (!(x)) return -1; } while (0)
        int on_event(void *data)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            NEED(data);  /* want: P102 */
            PyGILState_Release(state);
            return 0;
        }
        """,
        id="a macro with return in it",
    ),
    pytest.param(
        """
        #define SET_OR_GOTO(list, at, item, label) \
            do { \
                if (PyList_SetItem(list, at, item) < 0) \
                    goto label; \
            } while (0)
        int on_event(PyObject *list)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            SET_OR_GOTO(list, 0, PyList_New(0), failed);
            PyGILState_Release(state);
            return 0;
        failed:
            return -1;  /* want: P102 */
        }
        """,
        id="a label that only a macro jumps to",
    ),
]

NOOP = [
    pytest.param(
        """
        static int on_event(void *data)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            if (data == NULL) {
                CLEAN_UP();
                return -1;
            }
            PyGILState_Release(state);
            return 0;
        }
        """,
        id="a macro that nobody knows",
    ),
    pytest.param(
        """
        static int on_event(void *data)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            int result = -1;
            if (data == NULL)
                goto done;
            for (int i = 0; i < 3; i++) {
                if (PyErr_Occurred()) {
                    PyGILState_Release(state);
                    return -1;
                }
                if (i == 2)
                    break;
            }
            result = 0;
        done:
            PyGILState_Release(state);
            return result;
        }
        """,
        id="a release on every path",
    ),
    pytest.param(
        """
        static void on_event(int threaded)
        {
            PyGILState_STATE state;
            if (threaded)
                state = PyGILState_Ensure();
            PyErr_Print();
            if (threaded)
                PyGILState_Release(state);
        }
        """,
        id="acquired and released under one condition",
    ),
    pytest.param(
        """
        static void on_event(void)
        {
        #ifdef USE_THREADS
            PyGILState_STATE state = PyGILState_Ensure();
        #endif
            PyErr_Print();
        #if defined(USE_THREADS)
            PyGILState_Release(state);
        #endif
        }
        """,
        id="under one condition of the preprocessor",
    ),
    pytest.param(
        """
        static int on_event(void)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            return leave(&state);
        }
        """,
        id="a helper gets it",
    ),
    pytest.param(
        """
        static void on_event(void *data)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            if (data == NULL)
                Py_FatalError("no data");
            PyGILState_Release(state);
        }
        """,
        id="a path that never returns",
    ),
    pytest.param(
        """
        static void worker(void)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            for (;;)
                step();
        }
        """,
        id="a loop for ever",
    ),
    pytest.param(
        """
        #define SET_OR_GOTO(list, at, item, label) \
            do { \
                if (PyList_SetItem(list, at, item) < 0) \
                    goto label; \
            } while (0)
        int on_event(PyObject *list)
        {
            int result = -1;
            PyGILState_STATE state = PyGILState_Ensure();
            SET_OR_GOTO(list, 0, PyList_New(0), cleanup);
            SET_OR_GOTO(list, 1, PyList_New(0), cleanup);
            result = 0;
        cleanup:
            PyGILState_Release(state);
            return result;
        }
        """,
        id="a macro that jumps to the release",
    ),
    pytest.param(
        """
        #define NOTE(x) log_it("return " x)  /* goto the log */
        int on_event(void *data)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            NOTE("of it");
            PyGILState_Release(state);
            return 0;
        }
        """,
        id="a macro that says return, and does not",
    ),
    pytest.param(
        """
        #ifdef STRICT
        #define NEED(x) do { if (!(x)) return -1; } while (0)
        #else
        #define NEED(x) ((void)(x))
        #endif
        int on_event(void *data)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            NEED(data);
            PyGILState_Release(state);
            return 0;
        }
        """,
        id="a macro with two definitions, one of which returns",
    ),
    pytest.param(
        """
        #define STOP_IF(x) if (x) break
        int on_event(int n)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            while (n--) {
                STOP_IF(n == 3);
            }
            PyGILState_Release(state);
            return 0;
        }
        """,
        id="a macro that leaves a loop",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P102" in source
    checker("P102", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P102", source)


CYTHON_FOUND = [
    pytest.param(
        "x.pyx",
        """
        from cpython.pystate cimport PyGILState_Ensure, PyGILState_Release, PyGILState_STATE

        cdef void on_event(void *data) noexcept nogil:
            cdef PyGILState_STATE state = PyGILState_Ensure()
            if data == NULL:
                return  # want: P102
            PyGILState_Release(state)
        """,
        id="return",
    ),
    pytest.param(
        "x.pyx",
        """
        from cpython.pystate cimport PyGILState_Ensure as take
        from cpython cimport pystate

        cdef int on_event(void *data) except -1 nogil:
            state = take()
            if data == NULL:
                with gil:
                    raise ValueError("no data")  # want: P102
            pystate.PyGILState_Release(state)
            return 0
        """,
        id="raise, under other names",
    ),
    pytest.param(
        "x.pyx",
        """
        cdef extern from "Python.h":
            int take "PyGILState_Ensure"() nogil
            void give "PyGILState_Release"(int) nogil

        cdef void on_event() noexcept nogil:
            while True:
                state = take()
                if work():
                    break
                give(state)
            rest()  # want: P102
        """,
        id="break, and the names of an extern block",
    ),
    pytest.param(
        "x.pyx",
        """
        cdef void on_event() noexcept nogil:
            state = PyGILState_Ensure()
            try:
                if work():
                    return  # want: P102
            finally:
                rest()
            PyGILState_Release(state)
        """,
        id="past a finally that does something else",
    ),
    pytest.param(
        "x.py",
        """
        import cython
        from cython.cimports.cpython.pystate import PyGILState_Ensure as take, PyGILState_Release, PyGILState_STATE

        @cython.cfunc
        @cython.nogil
        @cython.exceptval(check=False)
        def on_event(data: cython.p_void) -> cython.void:
            state: PyGILState_STATE = take()
            if data == cython.NULL:
                return  # want: P102
            PyGILState_Release(state)
        """,
        id="pure-Python mode",
    ),
]

CYTHON_NOOP = [
    pytest.param(
        "x.pyx",
        """
        cdef int on_event(void *data) except -1 nogil:
            state = PyGILState_Ensure()
            try:
                if data == NULL:
                    return -1
                for number in range(3):
                    if number == 1:
                        break
                with gil:
                    raise ValueError
            finally:
                PyGILState_Release(state)
            return 0
        """,
        id="finally",
    ),
    pytest.param(
        "x.pyx",
        """
        cdef void on_event() noexcept nogil:
            while True:
                state = PyGILState_Ensure()
                try:
                    if work():
                        break
                    if rest():
                        continue
                finally:
                    PyGILState_Release(state)
        """,
        id="finally in a loop",
    ),
    pytest.param(
        "x.pyx",
        """
        def on_event(flag):
            if flag:
                state = PyGILState_Ensure()
            work()
            if flag:
                PyGILState_Release(state)
        """,
        id="a condition decides",
    ),
    pytest.param(
        "x.pyx",
        """
        cdef PyGILState_STATE kept

        cdef void enter() noexcept nogil:
            global kept
            kept = PyGILState_Ensure()

        cdef class Holder:
            cdef PyGILState_STATE state

            cdef void enter(self) noexcept nogil:
                self.state = PyGILState_Ensure()
        """,
        id="kept where others see it",
    ),
    pytest.param(
        "x.py",
        """
        import cython
        from cython.cimports.cpython import pystate

        @cython.cfunc
        @cython.nogil
        def on_event(data: cython.p_void) -> cython.int:
            state = cython.declare(pystate.PyGILState_STATE, pystate.PyGILState_Ensure())
            if data != cython.NULL:
                work(data)
            pystate.PyGILState_Release(cython.cast(cython.int, state))
            return 0
        """,
        id="pure-Python mode",
    ),
]


@pytest.mark.parametrize("name, source", CYTHON_FOUND)
def test_cython_found(checker, name, source):
    assert "want: P102" in source
    checker("P102", source, name=name)


@pytest.mark.parametrize("name, source", CYTHON_NOOP)
def test_cython_noop(checker, name, source):
    assert "want" not in source
    checker("P102", source, name=name)


# Macros that are no statements: labels, jumps to labels of other macros, names that are pasted together.
FUSE = """
#define PYLOCK() PyGILState_STATE gstate; gstate = PyGILState_Ensure();
#define PYUNLOCK() PyGILState_Release(gstate);
#define PROLOGUE(value)     \\
int ret = -1;               \\
PyObject *v;                \\
PYLOCK();                   \\
v = value;                  \\
if (!v) {                   \\
    PyErr_Print();          \\
    goto OUT;               \\
}                           \\
if (v == Py_None)           \\
    goto OUT_DECREF;
#define EPILOGUE            \\
OUT_DECREF:                 \\
    Py_DECREF(v);           \\
OUT:                        \\
    PYUNLOCK();             \\
    return ret;
#define HANDLER(name, ...) static int name##_func(const char *path, ##__VA_ARGS__) { \\
    PROLOGUE(PyObject_CallFunction(name##_cb, "s", path)) EPILOGUE }
HANDLER(mkdir, mode_t mode)
HANDLER(rmdir)
static int read_func(const char *path, char *buf)
{
#ifdef FIX
    PROLOGUE(PyObject_CallFunction(read_cb, "O&", path))
#else
    PROLOGUE(PyObject_CallFunction(read_cb, "s", path))
#endif
    if (!PyBytes_Check(v))
        %s
    ret = 0;
    EPILOGUE
}
"""


@pytest.mark.parametrize(
    "leaves, found",
    [("return -1;  /* want: P102 */", True), ("goto OUT_DECREF;", False), ("{ PYUNLOCK(); return -1; }", False)],
)
def test_macros_with_labels(checker, leaves, found):
    assert ("want" in leaves) == found
    checker("P102", FUSE % leaves)


def test_functions_that_macros_make(checker):
    source = FUSE % "goto OUT_DECREF;"
    source = source.replace(" EPILOGUE }", " if (!PyLong_Check(v)) return 0; EPILOGUE }")
    checker("P102", source.replace("mode)\n", "mode)  /* want: P102 */\n").replace("(rmdir)\n", "(rmdir)  /* want: P102 */\n"))


def test_the_end_of_such_a_macro(checker):
    source = (FUSE % "goto OUT_DECREF;").replace("OUT:                        \\\n    PYUNLOCK();             \\\n", "OUT: \\\n")
    source = source.replace("    EPILOGUE\n}", "    EPILOGUE  /* want: P102 */\n}")
    checker("P102", "\n".join(line for line in source.splitlines() if not line.startswith("HANDLER(")))


def test_such_macros_of_a_header_of_no_other_interest(checker):
    source = (FUSE % "FAIL(OUT_DECREF);").replace("PROLOGUE(PyObject_CallFunction(read", "PROLOGUE(  PyObject_CallFunction(read")
    checker("P102", source, "x.c", fail__h="#define FAIL(label) do { ret = -2; goto label; } while (0)\n")


@pytest.mark.parametrize("first, second", [("A", "!A"), ("A", "!defined(A)"), ("A", "B")])
def test_a_pair_of_macros_with_two_definitions_each(checker, first, second):
    """Never the one of one condition with the other of another."""
    head = f"#if {first}\n#define LOCK() PyGILState_STATE s = PyGILState_Ensure();\n#else\n#define LOCK()\n#endif\n"
    head += f"#if {second}\n#define UNLOCK()\n#else\n#define UNLOCK() PyGILState_Release(s);\n#endif\n"
    report = checker.report({"x.c": head + "#define END() out: UNLOCK()\nvoid f(int a)\n{\n    LOCK()\n    if (a) goto out;\n    END()\n}\n"})
    assert [finding.rule for finding in report.findings] == ["P104"]
