"""P113: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        static PyThreadState *saved;
        static void on_event(void *data)
        {
            PyEval_RestoreThread(saved);  // want: P113
            PyErr_Clear();
            saved = PyEval_SaveThread();
        }
        """,
        id="a callback between two waits",
    ),
    pytest.param(
        """
        static int on_event(void *data)
        {
            struct session *session = (struct session *)data;
            PyEval_AcquireThread(session->state);  // want: P113
            PyErr_Clear();
            PyEval_ReleaseThread(session->state);
            return 0;
        }
        """,
        id="a member of its data",
    ),
    pytest.param(
        """
        static PyThreadState *main_state;
        static void *run(void *data)
        {
            PyEval_AcquireThread(main_state);  // want: P113
            PyErr_Clear();
            return data;
        }
        static void start(void) { pthread_create(&thread, NULL, run, NULL); }
        """,
        id="on a thread of its own",
    ),
]

NOOP = [
    pytest.param(
        """
        static void work(struct session *session)
        {
            session->state = PyEval_SaveThread();
            compute();
            PyEval_RestoreThread(session->state);
            PyThreadState *mine = PyEval_SaveThread();
            compute();
            PyEval_RestoreThread(mine);
        }
        """,
        id="detached and attached again in one function",
    ),
    pytest.param(
        """
        class nogil {
            PyThreadState *state_;
        public:
            nogil() { state_ = PyEval_SaveThread(); }
            ~nogil() { PyEval_RestoreThread(state_); }
        };
        static void leave(struct session *session) { session->state = PyEval_SaveThread(); }
        static void enter(struct session *session) { PyEval_RestoreThread(session->state); }
        """,
        id="a class that detaches in its scope, and a pair of helpers",
    ),
    pytest.param(
        """
        static PyThreadState *own;
        static void *run(void *data)
        {
            PyEval_AcquireThread(own);
            PyErr_Clear();
            PyEval_ReleaseThread(own);
            return data;
        }
        static void start(void)
        {
            own = PyThreadState_New(interpreter);
            pthread_create(&thread, NULL, run, NULL);
        }
        """,
        id="a thread state made by hand, which P108 tells",
    ),
    pytest.param(
        """
        static PyThreadState *saved;
        int main(int argc, char **argv)
        {
            Py_Initialize();
            PyEval_RestoreThread(saved);
            saved = PyEval_SaveThread();
            return 0;
        }
        """,
        id="a program that embeds Python",
    ),
    pytest.param(
        """
        static int look_for_signals(struct call *call)
        {
            PyEval_RestoreThread(call->state);
            int result = PyErr_CheckSignals();
            call->state = PyEval_SaveThread();
            return result;
        }
        int waiter::look_for_signals()
        {
            PyEval_RestoreThread(state_);
            int result = PyErr_CheckSignals();
            state_ = PyEval_SaveThread();
            return result;
        }
        """,
        id="in the middle of its caller's wait",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P113" in source
    checker("P113", source, name="x.cpp")


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P113", source, name="x.cpp")


CYTHON = """
cdef PyThreadState *saved

cdef void on_event(void *data) noexcept nogil:
    %s
    PyEval_RestoreThread(saved)
    with gil:
        (<object> data)()
    %s = PyEval_SaveThread()
"""


@pytest.mark.parametrize("before, kept, found", [("global saved", "saved", True), ("cdef PyThreadState *mine", "mine", False)])
def test_cython(checker, before, kept, found):
    source = CYTHON % (before, kept)
    checker("P113", source.replace("(saved)", "(saved)  # want: P113") if found else source, name="x.pyx")
