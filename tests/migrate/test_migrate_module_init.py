"""Where the view comes from: the include, the variable, and the calls in module init."""

from __future__ import annotations

import textwrap

import pytest

CALLBACK = b"""\
#include <Python.h>
#include "x.h"

void on_event(void *data)
{
    PyGILState_STATE state = PyGILState_Ensure();
    Py_DECREF((PyObject *)data);
    PyGILState_Release(state);
}
"""

SINGLE = b"""
PyMODINIT_FUNC PyInit_x(void)
{
    PyObject *module;
    return PyModule_Create(&definition);
}
"""

SET_UP = """\

    if (Pep788_Init() < 0) {
        return %(value)s;
    }
    if (x_main_view == NULL && (x_main_view = PyInterpreterView_FromMain()) == NULL) {
        PyErr_NoMemory();
        return %(value)s;
    }
"""


def after(migrator, files, **options):
    report = migrator.report(files, **options)
    assert {site.outcome.value for site in report.sites} == {"migrated"}
    return {path[len(migrator.folder.as_posix()) + 1 :]: data.decode() for path, data in report.after.items()}


def test_one_file(migrator):
    text = after(migrator, {"x.c": CALLBACK + SINGLE})["x.c"]
    assert '#include "x.h"\n#include <pep788.h>\n\nstatic PyInterpreterView *x_main_view;\n\nvoid on_event' in text
    assert "    PyObject *module;\n" + SET_UP % {"value": "NULL"} + "    return PyModule_Create" in text


def test_the_view_is_shown_with_its_warning(migrator):
    report = migrator.report({"x.c": CALLBACK + SINGLE})
    (view,) = report.views
    assert (view.expression, view.line) == ("x_main_view", 11)
    assert view.how == "to be made in PyInit_x, of the main interpreter"
    assert ["belong to a subinterpreter" in note for note in report.notes] == [True]


def test_two_files(migrator):
    init = b"#include <Python.h>\n" + SINGLE
    files = after(migrator, {"a/callbacks.c": CALLBACK, "init.c": init})
    assert "#include <pep788.h>\n\nextern PyInterpreterView *x_main_view;\n" in files["a/callbacks.c"]
    assert "#include <pep788.h>\n\nPyInterpreterView *x_main_view;\n" in files["init.c"]


def test_C_and_Cpp_files_of_one_module(migrator):
    files = after(migrator, {"callbacks.cpp": CALLBACK, "init.c": b"#include <Python.h>\n" + SINGLE})
    assert 'extern "C" PyInterpreterView *x_main_view;\n' in files["callbacks.cpp"]
    files = after(migrator, {"callbacks.cpp": b"", "init.c": b"", "a.c": CALLBACK, "i.cpp": b"#include <Python.h>\n" + SINGLE})
    assert 'extern "C" PyInterpreterView *x_main_view;\nPyInterpreterView *x_main_view;\n' in files["i.cpp"]


def test_exec_slot(migrator):
    multi = b"""
static int set_up(PyObject *module)
{
    return add_types(module);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)set_up}, {0, NULL}};

PyMODINIT_FUNC PyInit_x(void)
{
    return PyModuleDef_Init(&definition);
}
"""
    text = after(migrator, {"x.c": CALLBACK + multi})["x.c"]
    expected = "{\n" + (SET_UP % {"value": "-1"})[1:] + "    return add_types(module);"
    assert expected in text and text.count("Pep788_Init") == 1


def test_init_in_the_style_of_Python_2_and_3(migrator):
    both = b"""
PyMODINIT_FUNC
#if PY_MAJOR_VERSION >= 3
PyInit_x(void)
#else
initx(void)
#endif
{
    return PyModule_Create(&definition);
}
"""
    text = after(migrator, {"x.c": CALLBACK + both})["x.c"]
    assert "#endif\n{\n" + (SET_UP % {"value": "NULL"})[1:] in text


def test_swig(migrator):
    interface = b"%module x\n%{\n" + CALLBACK + b"%}\nint wrapped(void);\n"
    text = after(migrator, {"x.i": interface})["x.i"]
    assert "static PyInterpreterView *x_main_view;\n\nvoid on_event" in text
    head, block = text.split("%}\n", 1)
    assert block.startswith("\n%init %{\n    if (Pep788_Init() < 0) {\n") and block.endswith("%}\nint wrapped(void);\n")


def test_vendored_header_is_included_by_its_relative_path(migrator):
    files = {"src/x.c": CALLBACK + SINGLE}
    text = after(migrator, files, vendored=str(migrator.folder / "third_party"))["src/x.c"]
    assert '#include "../third_party/pep788.h"\n' in text


def test_native_only(migrator):
    text = after(migrator, {"x.c": CALLBACK + SINGLE}, oldest=(3, 15))["x.c"]
    assert "pep788.h" not in text and "Pep788_Init" not in text
    assert "x_main_view = PyInterpreterView_FromMain()" in text


def test_the_name_is_free(migrator):
    text = after(migrator, {"x.c": CALLBACK.replace(b"data", b"x_main_view") + SINGLE})["x.c"]
    assert "static PyInterpreterView *x_main_view_;" in text


def test_a_view_that_is_there_is_used(migrator):
    first = after(migrator, {"x.c": CALLBACK + SINGLE})["x.c"]
    more = "\nvoid more(void)\n{\n    PyGILState_STATE s = PyGILState_Ensure();\n    PyGILState_Release(s);\n}\n"
    second = after(migrator, {"x.c": first + more})["x.c"]
    assert second.startswith(first)
    assert second[len(first) :] == textwrap.dedent(
        """
        void more(void)
        {
            PyThreadStateToken *s = PyThreadState_EnsureFromView(x_main_view);
            if (s == NULL) {
                return;
            }
            PyThreadState_Release(s);
        }
        """
    )


ASKED = [
    pytest.param({"x.c": CALLBACK}, "where is the module's init function?", id="none"),
    pytest.param(
        {"x.c": CALLBACK, "a.c": SINGLE, "b.c": SINGLE.replace(b"PyInit_x", b"PyInit_y")},
        "which module is this part of? There are PyInit_x, PyInit_y",
        id="two",
    ),
    pytest.param({"x.h": CALLBACK, "a.c": SINGLE}, "which module is this header part of?", id="header"),
    pytest.param(
        {"x.c": CALLBACK + SINGLE.replace(b"PyModule_Create", b"PyModuleDef_Init")},
        "where does x run its own set-up?",
        id="slots elsewhere",
    ),
    pytest.param(
        {"x.c": CALLBACK + b"static PyModuleDef_Slot slots[] = {{Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED}};" + SINGLE},
        "x says that it supports several interpreters",
        id="subinterpreters",
    ),
    pytest.param(
        {
            "x.c": CALLBACK + SINGLE,
            "slots.c": b"PyModuleDef_Slot slots[] = {{Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_SUPPORTED}};",
        },
        "x says that it supports several interpreters",
        id="subinterpreters, in another file",
    ),
    pytest.param(
        {
            "a.i": b"%{\n" + CALLBACK + b"%}\n",
            "b.i": b"%{\n" + CALLBACK + b"%}\n",
        },
        "which of the SWIG files is to make the view?",
        id="two SWIG files",
    ),
]


@pytest.mark.parametrize("files, question", ASKED)
def test_asked(migrator, files, question):
    report = migrator.report(files)
    assert report.after == {}
    assert {site.outcome.value for site in report.sites} == {"needs a decision"}
    assert all(question in site.reason and any("view" in option for option in site.options) for site in report.sites)


def test_no_place_for_the_include(migrator):
    report = migrator.report({"x.c": CALLBACK.replace(b"#include", b"// #include") + SINGLE})
    (site,) = report.sites
    assert site.outcome.value == "needs a decision" and "where in" in site.reason and "does the include go?" in site.reason
    assert report.after == {}


@pytest.mark.parametrize("name, text", [("x.h", b"#define Py_LIMITED_API 0x03060000\n"), ("setup.py", b"cflags += ['-DPy_LIMITED_API=0x03060000']\n")])
def test_a_limited_API_that_is_too_old_is_told(migrator, name, text):
    for data, told in ((text, 1), (text.replace(b"306", b"309"), 0)):
        report = migrator.report({"a.c": CALLBACK + SINGLE, name: data})
        notes = [note for note in report.notes if "Py_LIMITED_API is 0x03060000, and pep788.h needs 0x03090000" in note]
        assert len(notes) == told


def test_all_questions_at_once(migrator):
    text = CALLBACK.replace(b"void on_event", b"int on_event").replace(
        b"    PyGILState_Release(state);\n", b"    PyGILState_Release(state);\n    go_on();\n    return 0;\n"
    )
    (site,) = migrator.report({"x.c": text}).sites
    for part in ("`go_on()` in line 9", "what does on_event return (int)", "where is the module's init function?"):
        assert part in site.reason
    assert {option.split(" ")[0] for option in site.options} == {"accept", "before", "skip", "--failure-value", "view"}
