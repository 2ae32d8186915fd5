"""P101: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        static void on_event(void *data)
        {
            PyGILState_STATE state = PyGILState_Ensure();  /* want: P101 */
            PyObject_CallNoArgs((PyObject *)data);
            PyGILState_Release(state);
        }
        """,
        id="callback",
    ),
    pytest.param(
        """
        static int on_event(void *data)
        {
            PyGILState_STATE state;
            state = PyGILState_Ensure();  /* want: P101 */
            if (data == NULL) {
                PyGILState_Release(state);
                return -1;
            }
            PyGILState_Release(state);
            return 0;
        }
        """,
        id="assigned apart from its declaration, several releases",
    ),
    pytest.param(
        """
        static void on_event(PyGILState_STATE *out)
        {
            PyGILState_STATE a = PyGILState_Ensure();  /* want: P101 */
            PyGILState_Release(a);
            PyGILState_STATE b = PyGILState_Ensure();  /* want: P101 */
            PyGILState_Release(b);
        }
        """,
        id="twice in one function",
    ),
    pytest.param(
        """
        static void on_event(void)
        {
            Py_BEGIN_ALLOW_THREADS
            call();
            Py_END_ALLOW_THREADS
            PyGILState_STATE state = PyGILState_Ensure();  /* want: P101 */
            PyGILState_Release(state);
        }
        """,
        id="behind Py_BEGIN_ALLOW_THREADS, which has no semicolon",
    ),
    pytest.param(
        """
        static void on_event(int a ATTRIBUTE_UNUSED, void *data ATTRIBUTE_UNUSED)
        {
            PyGILState_STATE state = PyGILState_Ensure();  /* want: P101 */
            PyGILState_Release(state);
        }
        """,
        id="in a parameter list that needs a macro",
    ),
]

NOOP = [
    pytest.param(
        """
        static void on_event(void *data)
        {
            PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
            if (token == NULL)
                return;
            PyThreadState_Release(token);
        }
        """,
        id="the new API",
    ),
    pytest.param(
        """
        static const char *doc = "PyGILState_Ensure()";  /* PyGILState_Ensure() */
        """,
        id="in a comment and in a string",
    ),
    pytest.param(
        """
        #if PY_MAJOR_VERSION < 3
        static void on_event(void)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
        }
        #endif
        """,
        id="only for Python 2",
    ),
    pytest.param(
        """
        int main(void)
        {
            Py_Initialize();
            PyGILState_STATE state = PyGILState_Ensure();
            PyGILState_Release(state);
            return Py_FinalizeEx();
        }
        """,
        id="a program that finalizes Python itself",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P101" in source
    checker("P101", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P101", source)


def test_cython_under_other_names(checker):
    source = """
    from cpython.pystate cimport PyGILState_Ensure as take
    from cpython cimport pystate

    cdef void on_event() noexcept nogil:
        pystate.PyGILState_Release(take())  # want: P101
        pystate.PyGILState_Ensure()  # want: P101

    cdef int take_nothing() noexcept nogil:
        return nothing.take_it()
    """
    checker("P101", source, name="x.pyx")
