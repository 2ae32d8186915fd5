"""What an early return would leave out: questions, notes, and what is neither."""

from __future__ import annotations

import pytest

ASKED = [
    pytest.param(
        """
        void f(struct S *s)
        {
            pthread_mutex_lock(&s->mutex);
            PyGILState_STATE state = PyGILState_Ensure();
            PyErr_Print();
            PyGILState_Release(state);
            pthread_mutex_unlock(&s->mutex);
        }
        """,
        "`pthread_mutex_lock(&s->mutex)` in line 6 was done before",
        id="a lock is held",
    ),
    pytest.param(
        """
        void f(struct S *s)
        {
            s->busy = 1;
            PyGILState_STATE state = PyGILState_Ensure();
            PyErr_Print();
            s->busy = 0;
            PyGILState_Release(state);
        }
        """,
        "`s->busy = 1` in line 6 was done before",
        id="a member was changed",
    ),
    pytest.param(
        """
        void f(struct S *s)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyErr_Print();
            PyGILState_Release(state);
            wait_for_more(s);
        }
        """,
        "`wait_for_more(s)` in line 9 is outside of the pair",
        id="work after the release",
    ),
    pytest.param(
        """
        int f(struct S *s)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyErr_Print();
            PyGILState_Release(state);
            return next_handler(s);
        }
        """,
        "`next_handler(s)` in line 9 is outside of the pair",
        id="work in the return",
    ),
    pytest.param(
        """
        void f(struct S *s)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            if (PyObject_IsTrue(s->o))
                goto done;
            PyErr_Print();
        done:
            PyGILState_Release(state);
            s->done = 1;
        }
        """,
        "`s->done = 1` in line 12 is outside of the pair",
        id="a member set behind a label",
    ),
    pytest.param(
        """
        void f(struct S *s)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            PyErr_Print();
            sem_post(&s->ready);
            PyGILState_Release(state);
        }
        """,
        "`sem_post(&s->ready)` in line 8 would not be done on failure",
        id="somebody may wait for it",
    ),
    pytest.param(
        """
        void f(struct Context *context)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            if (PyErr_Occurred())
                sqlite3_result_error(context, "failed", -1);
            PyGILState_Release(state);
        }
        """,
        '`sqlite3_result_error(context, "failed", -1)` in line 8 may be how the caller is told',
        id="a function of no value tells its caller in another way",
    ),
]

NOT_ASKED = [
    pytest.param(
        """
        void f(struct S *s)
        {
            void *data = get_app_data(s);
            int clock = clock_gettime(s);
            PyGILState_STATE state = PyGILState_Ensure();
            Py_DECREF((PyObject *)data);
            PyBuffer_Release(&s->buffer);
            s->seen = 1;
            PyGILState_Release(state);
            clock = 0;
        }
        """,
        (),
        id="reads, Python's own releases, locals",
    ),
    pytest.param(
        """
        void f(struct S *s)
        {
            char *text = strdup(s->text);
            PyGILState_STATE state = PyGILState_Ensure();
            PyErr_Print();
            free(text);
            PyGILState_Release(state);
        }
        """,
        (
            "on failure what strdup gave in line 6 is leaked",
            "on failure free in line 9 is not called: a leak, at the very end",
        ),
        id="leaks are told",
    ),
    pytest.param(
        """
        void f(struct S *s)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            if (PyObject_IsTrue(s->o)) {
                PyGILState_Release(state);
            }
            else {
                count(s);
                PyGILState_Release(state);
            }
        }
        """,
        (),
        id="the other branch is not after the release",
    ),
    pytest.param(
        """
        void f(struct S *s, void *domain)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            char *text = expanded(s), *other;
            other = copy(text);
            lookup(&s);
            virDomainRef(domain);
            wrap(1, wrap_free_function(s->free));
            virDomainFree((Domain *)domain);
            free((void *)text);
            g_free(other);
            close_all(s);
            PyGILState_Release(state);
        }
        """,
        (),
        id="what the pair itself has made or taken is not leaked",
    ),
    pytest.param(
        """
        int f(void *s, int *result)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            set_error(s, 1);
            PyGILState_Release(state);
            return 0;
        }
        """,
        (),
        id="the value tells",
    ),
    pytest.param(
        """
        void f(void *s)
        {
            PyGILState_STATE state = PyGILState_Ensure();
            const char *text = error_text(0);
            if (event_error(s))
                PyErr_SetString(PyExc_ValueError, text);
            PyGILState_Release(state);
        }
        """,
        (),
        id="an error that the caller is not told of",
    ),
]


@pytest.mark.parametrize("text, question", ASKED)
def test_asked(migrator, text, question):
    migrator.asks(text, question, toml='[defaults]\nint = "0"')


@pytest.mark.parametrize("text, question", ASKED)
def test_accepted(migrator, text, question):
    site, after = migrator.one(text, toml='[defaults]\nint = "0"\n[callbacks]\nf.accept = true')
    assert site.outcome.value == "migrated" and b"PyGILState_Ensure" not in after


def test_statements_on_failure_tell_the_caller(migrator):
    (text,) = (case.values[0] for case in ASKED if case.id == "a function of no value tells its caller in another way")
    site, after = migrator.one(text, toml="[callbacks.f]\nbefore = 'sqlite3_result_error(context, \"too late\", -1);'")
    assert site.outcome.value == "migrated" and b'result_error(context, "too late", -1);\n        return;\n' in after


@pytest.mark.parametrize("text, notes", NOT_ASKED)
def test_not_asked(migrator, text, notes):
    site, _ = migrator.one(text, toml='[defaults]\nint = "-1"')
    assert (site.outcome.value, site.notes) == ("migrated", notes)


def test_destructor_that_does_more(migrator):
    text = """
    Holder::~Holder() {
        PyGILState_STATE state = PyGILState_Ensure();
        Py_XDECREF(object_);
        close_handle(handle_);
        PyGILState_Release(state);
    }
    """
    migrator.asks(text, "would not be done by this destructor on failure", name="x.cpp")
    site, after = migrator.one(text.replace("        close_handle(handle_);\n", ""), name="x.cpp")
    assert site.outcome.value == "migrated" and b"        return;\n" in after
