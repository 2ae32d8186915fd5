"""A comment that keeps `pep788 check` quiet keeps `pep788 migrate` away."""

from __future__ import annotations

import pytest

PAIR = """
void f(void *data)
{
    %sPyGILState_STATE s = PyGILState_Ensure();%s
    Py_DECREF((PyObject *)data);
    PyGILState_Release(s);
}
"""
REASON = "by a comment: pep788: ignore"


@pytest.mark.parametrize(
    "comment, ignored",
    [
        ("/* pep788: ignore */", True),
        ("// pep788: ignore[P101]", True),
        ("// pep788: ignore[P1]", True),
        ("// pep788: ignore[P204]", False),
        ("// pep788: not to be ignored", False),
    ],
)
def test_on_the_line(migrator, comment, ignored):
    site, after = migrator.one(PAIR % ("", "  " + comment))
    assert (site.outcome.value, site.reason == REASON, after is None) == (("skipped", True, True) if ignored else ("migrated", False, False))


def test_on_the_line_before_and_in_the_whole_file(migrator):
    migrator.skips(PAIR % ("// pep788: ignore\n    ", ""), REASON)
    migrator.skips("/* pep788: ignore-file */\n" + PAIR % ("", ""), REASON)
    assert migrator.one("int x;  // pep788: ignore\n" + PAIR % ("", ""))[0].outcome.value == "migrated"


def test_at_a_macro(migrator):
    macros = "#define BEGIN PyGILState_STATE s = PyGILState_Ensure()%s\n#define END PyGILState_Release(s)\n"
    use = "void f(void *data)\n{\n    BEGIN;\n    Py_DECREF((PyObject *)data);\n    END;\n}\n"
    migrator.skips("/* pep788: ignore */\n" + macros % "" + use, REASON)
    assert migrator.one(macros % "" + use)[0].outcome.value == "migrated"


@pytest.mark.parametrize(
    "name, text",
    [
        ("x.pyx", "# pep788: ignore[P121]\ncdef void f() noexcept with gil:\n    print(1)\n"),
        ("x.cpp", "void f() {\n    py::gil_scoped_acquire gil;  // pep788: ignore\n    g();\n}\n"),
    ],
)
def test_other_sites(migrator, name, text):
    assert [site.reason for site in migrator.report({name: text}, 'view = "view"').sites] == [REASON]
    unmarked = text.replace("pep788: ", "")
    assert REASON not in [site.reason for site in migrator.report({name: unmarked}, 'view = "view"').sites]
