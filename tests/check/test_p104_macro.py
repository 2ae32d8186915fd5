"""P104: what it finds, and what looks like it and is not."""

from __future__ import annotations

import pytest

FOUND = [
    pytest.param(
        """
        #define ENTER PyGILState_STATE state = PyGILState_Ensure();  /* want: P104 */
        #define LEAVE PyGILState_Release(state);
        static void on_event(void)
        {
            ENTER
            PyErr_Print();
            LEAVE
        }
        """,
        id="the pair as two macros, used without semicolons",
    ),
]

NOOP = [
    pytest.param(
        """
        #define QUIET(call) do { Py_BEGIN_ALLOW_THREADS call; Py_END_ALLOW_THREADS } while (0)
        static void f(void) { QUIET(g()); }
        """,
        id="a macro that detaches",
    ),
    pytest.param(
        """
        #if PY_VERSION_HEX < 0x03000000
        #define ENTER PyGILState_STATE state = PyGILState_Ensure();
        #endif
        """,
        id="for Python 2 only",
    ),
]


@pytest.mark.parametrize("source", FOUND)
def test_found(checker, source):
    assert "want: P104" in source
    checker("P104", source)


@pytest.mark.parametrize("source", NOOP)
def test_noop(checker, source):
    assert "want" not in source
    checker("P104", source)


@pytest.mark.parametrize("definition", ["TAKE PyGILState_Ensure", "TAKE() PyGILState_Ensure()"])
def test_another_name_of_the_function(checker, definition):
    """It is one that is looked for, too: the function that uses it has paths."""
    source = f"#define {definition}\nvoid on_event(int a)\n{{\n    PyGILState_STATE s = TAKE();\n    if (a)\n        return;\n    PyGILState_Release(s);\n}}\n"
    report = checker.report({"x.c": source})
    assert [(f.rule, f.span.line) for f in report.findings] == [("P104", 1), ("P102", 6)]
    assert "is used once" in report.findings[0].message
    report = checker.report({"x.c": source.replace("PyGILState_Ensure", "take_nothing")})
    assert report.findings == []
