"""Functions that return a value: the author says which, and nothing is invented."""

from __future__ import annotations

import pytest
from pep788_tools.migrate import decisions

BEFORE = """
static int on_event(void *data)
{
    int result;
    PyGILState_STATE state;
    state = PyGILState_Ensure();
    result = PyObject_IsTrue((PyObject *)data);
    PyGILState_Release(state);
    return result;
}
"""

AFTER = """
static int on_event(void *data)
{
    int result;
    PyThreadStateToken *state;
    state = PyThreadState_EnsureFromView(view);
    if (state == NULL) {
        return -1;
    }
    result = PyObject_IsTrue((PyObject *)data);
    PyThreadState_Release(state);
    return result;
}
"""


def test_asks_for_the_value(migrator):
    migrator.asks(BEFORE, "what does on_event return (int) where Python is finalizing?")


@pytest.mark.parametrize(
    "toml",
    [
        '[callbacks]\non_event = "-1"',
        '[callbacks]\non_event = { value = "-1" }',
        '[callbacks]\n"x.c:on_event" = "-1"\non_event = "7"',
        '[defaults]\nint = "-1"',
    ],
)
def test_value_from_a_file(migrator, toml):
    migrator.becomes(BEFORE, AFTER, toml=toml)


def test_value_from_the_command_line_goes_before_the_file(migrator):
    migrator.becomes(BEFORE, AFTER, values=("on_event=-1",), toml='[callbacks]\non_event = "7"')


def test_value_with_an_equals_sign(migrator):
    site, after = migrator.one(BEFORE, values=("on_event=fallback == NULL ? -1 : 0",))
    assert b"        return fallback == NULL ? -1 : 0;\n" in after


def test_statement_before_the_return(migrator):
    migrator.becomes(
        BEFORE,
        AFTER.replace("        return -1;", "        report(data);\n        return -1;"),
        toml='[callbacks.on_event]\nvalue = "-1"\nbefore = "report(data);"',
    )


def test_skip_by_decision(migrator):
    migrator.skips(BEFORE, "by decision: no value is right", toml='[callbacks]\non_event.skip = "no value is right"')


def test_view_of_one_callback(migrator):
    after = AFTER.replace("FromView(view)", "FromView(((Data *)data)->view)")
    migrator.becomes(BEFORE, after, toml='[callbacks.on_event]\nvalue = "-1"\nview = "((Data *)data)->view"')


def test_method_by_its_class(migrator):
    text = """
    struct Compare : Base {
        int operate(PyObject *a) const noexcept override
        {
            PyGILState_STATE state = PyGILState_Ensure();
            int result = PyObject_IsTrue(a);
            PyGILState_Release(state);
            return result;
        }
    };
    """
    migrator.asks(text, "what does Compare::operate return (int)", name="x.cpp")
    site, after = migrator.one(text, name="x.cpp", values=("Compare::operate=0",))
    assert b"        if (state == NULL) {\n            return 0;\n        }\n" in after


def test_a_value_for_a_void_function_is_not_used(migrator):
    text = "void f(void)\n{\n    PyGILState_STATE s = PyGILState_Ensure();\n    PyGILState_Release(s);\n}\n"
    site, after = migrator.one(text, values=("f=1",))
    assert b"        return;\n" in after


def test_a_decision_that_fits_nothing_is_told(migrator):
    report = migrator.report({"x.c": "#include <Python.h>\n" + BEFORE}, 'view = "v"', ("on_evnt=0",))
    assert report.notes == ["the decision for on_evnt fits no site"]


@pytest.mark.parametrize("value", ["on_event", "=1", "on_event=1; abort()", "on_event=1 //", "on_event=(", "on_event=1\n", "on_event=é"])
def test_wrong_values_are_refused(migrator, value):
    if value == "on_event=1\n":  # blanks around it are not part of it
        decisions.load(None, [value])
        return
    with pytest.raises(decisions.DecisionError):
        decisions.load(None, [value])


@pytest.mark.parametrize(
    "toml, message",
    [
        ("callback = 1", "callback is not known; there are callbacks, defaults, user_data, view"),
        ("callbacks = 1", "callbacks is not a table"),
        ("user_data = 1", "user_data is neither true nor false"),
        ("[callbacks]\nf = 1", "f is neither a failure value nor a table"),
        ("[callbacks.f]\nvaleu = '1'", "valeu is not known; there are accept, before, skip, value, view"),
        ("[callbacks.f]\naccept = 'yes'", "accept is neither true nor false"),
        ("[callbacks.f]\nbefore = 'report()'", "is no statement of C or C++"),
        ("[callbacks.f]\nvalue = 3", "value is not a string"),
        ("[callbacks", "decisions.toml: "),
    ],
)
def test_wrong_files_are_refused(migrator, tmp_path, toml, message):
    path = tmp_path / "decisions.toml"
    path.write_text(toml)
    with pytest.raises(decisions.DecisionError) as error:
        decisions.load(path, ())
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text, name",
    [
        ("on_event(void)\n{\n    PyGILState_STATE s = PyGILState_Ensure();\n    PyGILState_Release(s);\n}\n", "x.c"),
        ("S::operator bool()\n{\n    PyGILState_STATE s = PyGILState_Ensure();\n    PyGILState_Release(s);\n    return x;\n}\n", "x.cpp"),
    ],
    ids=["int of old C", "conversion"],
)
def test_no_return_type(migrator, text, name):
    report = migrator.report({name: "#include <Python.h>\nstatic int x;\n" + text}, 'view = "view"')
    assert report.after == {}
    assert [site.outcome.value for site in report.sites] == ["skipped"]


def test_a_type_that_is_a_name_for_void(migrator):
    text = "Nothing f(void)\n{\n    PyGILState_STATE s = PyGILState_Ensure();\n    PyGILState_Release(s);\n}\n"
    migrator.asks(text, "what does f return (Nothing)")
    assert b"        return;\n" in migrator.one(text, values=("f=",))[1]


@pytest.mark.parametrize(
    "before, reason",
    [
        ("auto x = [] { return 1; }();", "the result does not parse"),  # C++ in a C file
        ("PyThreadStateToken *t = PyThreadState_EnsureFromView(v);", "on_event would have a P20"),
    ],
)
def test_what_makes_the_result_worse_fails(migrator, before, reason):
    toml = f"view = 'view'\n[callbacks.on_event]\nvalue = '-1'\nbefore = '{before}'"
    good = "\nvoid good(void)\n{\n    PyGILState_STATE s = PyGILState_Ensure();\n    PyGILState_Release(s);\n}\n"
    report = migrator.report({"x.c": "#include <Python.h>\n" + BEFORE, "y.c": "#include <Python.h>\n" + good}, toml)
    assert [(site.outcome.value, site.reason.startswith(reason)) for site in report.sites] == [("failed", True), ("migrated", False)]
    assert [path.rsplit("/", 1)[-1] for path in report.after] == ["y.c"]
