"""P204: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        static PyModuleDef_Slot slots[] = {
            {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
            {0, NULL},
        };
        static int start(struct task *task)
        {
            task->view = PyInterpreterView_FromMain();  /* want: P204 */
            return 0;
        }
        """,
        id="own GIL",
    ),
]

NOOP = [
    pytest.param(
        """
        static PyModuleDef_Slot slots[] = {
            {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
            {0, NULL},
        };
        static int start(struct task *task)
        {
            task->view = PyInterpreterView_FromMain();
            return 0;
        }
        """,
        id="no subinterpreters",
    ),
    pytest.param(
        """
        static PyModuleDef_Slot slots[] = {
            {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
            {0, NULL},
        };
        static int start(struct task *task)
        {
            task->view = PyInterpreterView_FromCurrent();
            return 0;
        }
        """,
        id="the current one",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P204" in source
    checker("P204", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P204", source)


@pytest.mark.parametrize("value, found", [("own_gil", True), ("shared_gil", True), ("no", False)])
def test_cython(checker, value, found):
    source = f"""\
# cython: language_level=3, subinterpreters_compatible = {value}
cdef void enable():
    use(PyInterpreterView_FromMain()){"  # want: P204" if found else ""}
    use(PyInterpreterView_FromCurrent())
"""
    checker("P204", source, name="x.pyx")
