"""The view in the struct that a callback is handed: made where that is allocated, closed where it is freed, or not used."""

from __future__ import annotations

import difflib

import pytest

SOURCE = """\
#include <Python.h>
#include <stdlib.h>

typedef struct {
    PyObject *handler;
    int count;
} Source;

static void on_event(void *data)
{
    Source *source = (Source *)data;
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject_CallNoArgs(source->handler);
    PyGILState_Release(state);
}

static PyObject *start(PyObject *module, PyObject *handler)
{
    Source *source = (Source *)malloc(sizeof(Source));
    if (source == NULL) {
        return PyErr_NoMemory();
    }
    source->handler = Py_NewRef(handler);
    if (library_start(on_event, source) < 0) {
        Py_DECREF(handler);
        free(source);
        return NULL;
    }
    return PyCapsule_New(source, NULL, NULL);
}

static void stop(Source *source)
{
    library_stop();
    Py_DECREF(source->handler);
    free(source);
}

PyMODINIT_FUNC PyInit_x(void)
{
    return PyModule_Create(&definition);
}
"""

ADDED = """\
+#include <pep788.h>
+    PyInterpreterView *view;
-    PyGILState_STATE state = PyGILState_Ensure();
+    PyThreadStateToken *state = PyThreadState_EnsureFromView(source->view);
+    if (state == NULL) {
+        return;
+    }
-    PyGILState_Release(state);
+    PyThreadState_Release(state);
+    source->view = PyInterpreterView_FromCurrent();
+    if (source->view == NULL) {
+        free(source);
+        return PyErr_NoMemory();
+    }
+        PyInterpreterView_Close(source->view);
+    PyInterpreterView_Close(source->view);
+    if (Pep788_Init() < 0) {
+        return NULL;
+    }
"""

OBJECT = """\
#include <Python.h>

typedef struct {
    PyObject_HEAD
    PyObject *handler;
} Reader;

static void on_event(void *data)
{
    PyGILState_STATE state = PyGILState_Ensure();
    Reader *self = (Reader *)data;
    PyObject_CallNoArgs(self->handler);
    PyGILState_Release(state);
}

static PyObject *make(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Reader *self = (Reader *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->handler = Py_NewRef(args);
    return (PyObject *)self;
}

static void dealloc(Reader *self)
{
    library_stop(self);
    Py_CLEAR(self->handler);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyTypeObject Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "x.Reader",
    .tp_basicsize = sizeof(Reader),
    .tp_dealloc = (destructor)dealloc,
    .tp_new = make,
};

PyMODINIT_FUNC PyInit_x(void)
{
    return PyModule_Create(&definition);
}
"""

OBJECT_ADDED = """\
+#include <pep788.h>
+    PyInterpreterView *view;
-    PyGILState_STATE state = PyGILState_Ensure();
+    PyThreadStateToken *state = PyThreadState_EnsureFromView(((Reader *)data)->view);
+    if (state == NULL) {
+        return;
+    }
-    PyGILState_Release(state);
+    PyThreadState_Release(state);
+    self->view = PyInterpreterView_FromCurrent();
+    if (self->view == NULL) {
+        Py_TYPE(self)->tp_free((PyObject *)self);
+        return NULL;
+    }
+    PyInterpreterView_Close(self->view);
+    if (Pep788_Init() < 0) {
+        return NULL;
+    }
"""


def changed(migrator, files, **options):
    report = migrator.report(files, **options)
    assert [site.outcome.value for site in report.sites] == ["migrated"]
    lines = []
    for path, after in sorted(report.after.items()):
        before = report.before[path]
        diff = difflib.unified_diff(before.decode().splitlines(), after.decode().splitlines(), n=0, lineterm="")
        lines += [line for line in list(diff)[2:] if not line.startswith("@@")]
    again = migrator.report({path[len(migrator.folder.as_posix()) + 1 :]: data for path, data in report.after.items()}, **options)
    assert (again.sites, again.after) == ([], {})
    return report, "".join(line + "\n" for line in lines if line.strip("+-"))


def test_user_data(migrator):
    report, diff = changed(migrator, {"x.c": SOURCE})
    assert diff == ADDED
    (view,) = report.views
    assert (view.expression, view.line) == ("Source.view", 19)
    assert view.how == "to be made in start, of the interpreter that is current there, and closed in start, stop"
    assert "no Source may be freed while this may still be called" in report.sites[0].notes[-1]


def test_object(migrator):
    report, diff = changed(migrator, {"x.c": OBJECT})
    assert diff == OBJECT_ADDED
    assert [view.expression for view in report.views] == ["Reader.view"]


def test_object_whose_first_member_is_a_struct(migrator):
    """The macro in front of it has no semicolon."""
    text = OBJECT.replace("    PyObject *handler;\n", "    struct Context {\n        PyObject *handler;\n    } context;\n")
    assert changed(migrator, {"x.c": text.replace("self->handler", "self->context.handler")})[1] == OBJECT_ADDED


def test_several_files(migrator):
    head, rest = SOURCE.split("static void on_event", 1)
    header = "#ifndef X_H\n#define X_H\n" + head + "void on_event(void *data);\n#endif\n"
    callback, rest = ("void on_event" + rest).split("static PyObject *start", 1)
    files = {"x.h": header, "a.c": '#include "x.h"\n' + callback, "b.c": '#include "x.h"\nstatic PyObject *start' + rest}
    report, diff = changed(migrator, files)
    assert sorted(diff.splitlines()) == sorted(ADDED.splitlines() + ["+#include <pep788.h>"] * 2)
    assert "stdlib.h>\n#include <pep788.h>\n" in report.after[f"{migrator.folder.as_posix()}/x.h"].decode()


def test_native(migrator):
    _, diff = changed(migrator, {"x.c": SOURCE}, oldest=(3, 15))
    expected = [line for line in ADDED.splitlines() if "pep788.h" not in line]
    assert diff.splitlines() == expected[:-3]


def test_a_module_for_several_interpreters(migrator):
    """With a view in the user data it need not be asked which one is meant."""
    slots = "\nstatic PyModuleDef_Slot slots[] = {{Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED}};\n"
    assert changed(migrator, {"x.c": SOURCE + slots})[1] == ADDED
    (site,) = migrator.report({"x.c": SOURCE + slots}, "user_data = false").sites
    assert "which one is this callback for?" in site.reason


def test_no_init_function(migrator):
    (site,) = migrator.report({"x.c": SOURCE.replace("PyInit_x", "set_up")}).sites
    assert (site.outcome.value, "where is the module's init function?" in site.reason) == ("needs a decision", True)


def test_a_view_that_is_there(migrator):
    there = SOURCE.replace("    int count;", "    PyInterpreterView *mine;")
    report, diff = changed(migrator, {"x.c": there.replace("<stdlib.h>", "<stdlib.h>\n#include <pep788.h>")})
    assert diff == "".join(ADDED.splitlines(True)[2:9]).replace("->view", "->mine")
    assert [view.how for view in report.views] == ["a member that is there already"]


def test_a_name_that_is_free(migrator):
    _, diff = changed(migrator, {"x.c": SOURCE.replace("int count", "int view")})
    assert diff == ADDED.replace("*view", "*pep788_view").replace("->view", "->pep788_view")


CLEARED = SOURCE.replace("    source->handler = Py", "    memset(source, 0, sizeof(*source));\n    source->handler = Py")
IN_CONDITION = SOURCE.replace("= (Source *)malloc(sizeof(Source));\n    if (source ==", ";\n    if ((source = malloc(sizeof *source)) ==")
MAYBE_NULL = SOURCE.replace("    library_stop();\n    Py_DECREF(source->handler);\n", "    library_stop();\n")
RAW = SOURCE.replace("return PyErr_NoMemory();", "return NULL;")


@pytest.mark.parametrize(
    "text, old, new",
    [
        pytest.param(CLEARED, "", "", id="cleared behind the test"),
        pytest.param(IN_CONDITION, "", "", id="tested where it is assigned"),
        pytest.param(
            MAYBE_NULL,
            "+    PyInterpreterView_Close(source->view);",
            "+    if (source != NULL) { PyInterpreterView_Close(source->view); }",
            id="free(NULL)",
        ),
        pytest.param(
            RAW,
            "+        free(source);\n+        return PyErr_NoMemory();",
            "+        free(source);\n+        PyErr_Clear();\n+        return NULL;",
            id="no exception where there is no memory",
        ),
    ],
)
def test_ways_to_write_it(migrator, text, old, new):
    report, diff = changed(migrator, {"x.c": text})
    assert diff == ADDED.replace(old, new)
    after = next(iter(report.after.values())).decode()
    assert "memset" not in after or after.index("memset") < after.index("FromCurrent")


OTHER = "\nstatic PyObject *again(PyObject *module, PyObject *handler)\n{\n    Source *source = malloc(sizeof(Source));\n    return NULL;\n}\n"
TWINS = [
    pytest.param(SOURCE.replace("    free(source);\n}", "}").replace("        free(source);\n", ""), "no place was found where it is freed", id="never freed"),
    pytest.param(SOURCE.replace("    if (source == NULL) {\n        return PyErr_NoMemory();\n    }\n", ""), "no test for NULL follows", id="no test"),
    pytest.param(SOURCE + OTHER, "2 places that make one were found", id="made twice"),
    pytest.param(SOURCE + "\nstatic Source one;\n", "has one by value", id="a variable"),
    pytest.param(SOURCE + "\nstruct Pair { Source a, b; };\n", "has one by value", id="a member"),
    pytest.param(SOURCE + "\nvoid copy(Source *a, Source *b) { *a = *b; }\n", "it is copied", id="copied"),
    pytest.param(SOURCE + "\nvoid copy(Source *a, Source *b) { memcpy(a, b, sizeof(Source)); }\n", "its size is used in", id="copied as bytes"),
    pytest.param(SOURCE + "\nvoid third(Source *a) { a[2].count = 1; }\n", "there are arrays of it", id="arrays"),
    pytest.param(SOURCE.replace("int count;", "char text[];"), "its last member is an array of any length", id="a flexible array"),
    pytest.param(SOURCE.replace("    int count;\n", "#ifdef X\n    int count;\n#endif\n"), "depends on conditional compilation", id="#ifdef"),
    pytest.param(SOURCE + "\n#define MAKE() ((Source *)malloc(sizeof(Source)))\n", "it is in a macro", id="a macro"),
    pytest.param(SOURCE + "\ntypedef Source *SourcePtr;\n", "it has another name", id="a pointer type"),
    pytest.param(
        SOURCE.replace("static PyObject *start(PyObject *module, PyObject *handler)", "static Source *start(int handler)"),
        "start, which makes one, need not be attached",
        id="not attached",
    ),
    pytest.param(
        SOURCE.replace("    Source *source = (Source *)malloc(", "    Py_BEGIN_ALLOW_THREADS\n    Source *source = (Source *)malloc("),
        "whether start is attached where it makes one is not plain",
        id="detached",
    ),
    pytest.param(SOURCE.replace("    free(source);\n}", "    if (source)\n        free(source);\n}"), "it is freed in no block of its own", id="freed in a condition"),
    pytest.param(SOURCE.replace("        return PyErr_NoMemory();", "        goto failed;"), "does not return at once when it cannot make one", id="goto"),
    pytest.param(SOURCE.replace("PyObject_CallNoArgs(source->handler)", "if (source) PyObject_CallNoArgs(source->handler)"), "", id="it may be NULL"),
    pytest.param(SOURCE.replace("PyObject_CallNoArgs(source->handler)", "PyErr_Print(); source = next(source); x(source->count)"), "", id="another one"),
    pytest.param(SOURCE.replace("PyObject *handler;", "int handler;"), "", id="no Python object in it"),
    pytest.param(OBJECT.replace(".tp_new = make", ".tp_new = PyType_GenericNew"), "make, which makes one, is not its type's tp_new", id="another tp_new"),
    pytest.param(OBJECT.replace("type->tp_alloc(type, 0)", "PyObject_New(Reader, &Type)"), "its type can be called, too", id="called"),
    pytest.param(OBJECT + "\nstatic PyTypeObject Other = {.tp_basicsize = sizeof(Reader)};\n", "its type object was not found", id="two types"),
    pytest.param(OBJECT.replace("type->tp_alloc(type, 0)", "PyType_GenericNew(type, args, kwargs)"), "made in a way that is not understood", id="generic"),
]  # fmt: skip


@pytest.mark.parametrize("text, reason", TWINS)
def test_a_view_of_the_module_instead(migrator, text, reason):
    report, diff = changed(migrator, {"x.c": text})
    assert "+static PyInterpreterView *x_main_view;\n" in diff and "FromCurrent" not in diff
    notes = [note for note in report.sites[0].notes if note.startswith("no view is kept in")]
    assert [reason in note for note in notes] == ([True] if reason else [])


@pytest.mark.parametrize("name, text", [("y.pyx", "cdef extern from *:\n    ctypedef struct Source:\n        int count\n"), ("y.i", "%{\nSource *f(void);\n%}\n")])
def test_other_languages_may_make_one(migrator, name, text):
    report, diff = changed(migrator, {"x.c": SOURCE, name: text})
    assert "+static PyInterpreterView *x_main_view;\n" in diff
    assert any("it is in" in note and "too" in note for note in report.sites[0].notes)


def test_by_decision(migrator):
    report, diff = changed(migrator, {"x.c": SOURCE}, toml="user_data = false")
    assert "+static PyInterpreterView *x_main_view;\n" in diff
    assert report.sites[0].notes == ()
