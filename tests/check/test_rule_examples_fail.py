"""What the pages call wrong really fails, and what they call right does not: built, and run in children."""

from __future__ import annotations

import concurrent.futures
import pathlib
import re
import subprocess
import sys
from typing import Dict, Iterator, Mapping

import pytest
import support

PAGES = support.REPO / "docs" / "rules"
GIVE_UP = {"PEP788_REPORT_AFTER": "0.1", "PEP788_GIVE_UP_AFTER": "0.3"}
HUNG_S = 3.0

MODULE = """
#include "pep788.h%(plus)s"
#include <pthread.h>
#include <string.h>
PyInterpreterView *view;
%(code)s
static PyMethodDef methods[] = {
    {"go", go, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "%(name)s", NULL, -1, methods, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_%(name)s(void)
{
    if (Pep788_Init() < 0 || (view = PyInterpreterView_FromCurrent()) == NULL)
        return NULL;
    return PyModule_Create(&definition);
}
"""


def example(rule: str, kind: str) -> str:
    page = (PAGES / f"{rule}.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {kind}\n\n```\w+\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found.group(1)


def build(name: str, code: str, language: str = "c", *flags: str) -> pathlib.Path:
    source = support.BUILD / "check" / (f"{name}.c" if language == "c" else f"{name}.cpp")
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(MODULE % {"code": code, "name": name, "plus": "" if language == "c" else "pp"})
    extra = ["-O0", "-g0", "-Wno-unused", "-fvisibility=hidden", *flags]
    std = "c11" if language == "c" else "c++17"
    return support.build_extension(name, [source], language=language, std=std, extra=extra)


def run(folder: pathlib.Path, name: str, *arguments: str, timeout: float = HUNG_S) -> support.Result:
    code = f"import gc, sys, {name}\n{name}.go(print, *sys.argv[1:])\ngc.collect()\nprint('end', flush=True)"
    return support.run_child(code, path=[folder], args=arguments, timeout=timeout, env=GIVE_UP)


def run_to_the_end(folder: pathlib.Path, name: str, *arguments: str) -> support.Result:
    """One that hangs at its end; on a machine so busy that it does not come to that, it gets more time."""
    result = run(folder, name, *arguments)
    return run(folder, name, *arguments, timeout=60) if result.hung and result.out != "end\n" else result


def fixed(folder: pathlib.Path, name: str, *arguments: str) -> support.Result:
    return run(folder, name, *arguments, timeout=60).check()


def went_wrong(result: support.Result) -> bool:
    return result.hung or result.signal is not None


# --- too late ---------------------------------------------------------------------------------------------------
# Py_AtExit functions run when the interpreter is gone: as late as a callback can be.

LATE = """
static PyObject *kept;
%(blocks)s
static const struct {
    const char *name;
    void (*function)(void);
} cases[] = {%(cases)s};
static void (*chosen)(void);
static void late(void) { chosen(); }
static PyObject *go(PyObject *self, PyObject *args)
{
    const char *name;
    if (!PyArg_ParseTuple(args, "Os", &kept, &name))
        return NULL;
    Py_INCREF(kept);
    for (size_t at = 0; at < sizeof cases / sizeof cases[0]; at++)
        if (strcmp(cases[at].name, name) == 0)
            chosen = cases[at].function;
    if (chosen == NULL || Py_AtExit(late) < 0)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}
"""
NAMES = re.compile(r"\b(on_event|enter|Attached|Callback)\b")
MACROS = "#undef ENTER\n#undef ENTER_OR\n#undef LEAVE\n#undef Py_IsInitialized\n"

# What is called too late; `@` stands for the names of the example at hand.
C_LATE = {
    "P101": "@on_event(kept);",
    "P103": "@enter();",
    "P104": "@on_event();",
    "P107": "@on_event();",
    "P109": "@on_event();",
    "P203": "@on_event();",
}
# The answer is from before, as it is when the thread is not run between the test and the attach.
BEFORE = {"P107": "#define Py_IsInitialized() 1\n"}
CPP_LATE = {
    "P105": "@Attached here; PyErr_Clear();",
    "P112": "delete @callback;",
}
CPP_FIXED = {"P105": "@Attached here; if (here) PyErr_Clear();"}
CYTHON_LATE = ("P121", "P122")


def block(rule: str, kind: str, call: str) -> str:
    prefix = f"{rule}_{kind}_".lower()
    code = NAMES.sub(lambda found: prefix + found.group(), example(rule, kind))
    call = call.replace("@", prefix)
    return f"{MACROS}{BEFORE.get(rule, '')}{code}\nstatic void {prefix}late(void) {{ {call} }}\n"


def late_source(blocks: Mapping[str, str]) -> str:
    cases = ", ".join(f'{{"{name}", {name.lower()}_late}}' for name in blocks)
    return LATE % {"blocks": "".join(blocks.values()), "cases": cases}


def late_c() -> pathlib.Path:
    kinds = ("Found", "Fixed")
    return build("late_c", late_source({f"{r}_{k}": block(r, k, call) for r, call in C_LATE.items() for k in kinds}))


def late_cpp() -> pathlib.Path:
    blocks = {}
    for rule, call in CPP_LATE.items():
        for kind in ("Found", "Fixed"):
            text = block(rule, kind, CPP_FIXED.get(rule, call) if kind == "Fixed" else call)
            if rule == "P112":  # made while Python runs, as a member of something is that outlives it
                owned = "kept" if kind == "Found" else "pep788::object::borrow(kept)"
                prefix = f"{rule}_{kind}_".lower()
                made = f"static {prefix}Callback *{prefix}callback;\n"
                text = text.replace("static void", made + "static void", 1)
                blocks[f"{prefix}make"] = f"{prefix}callback = new {prefix}Callback{{{owned}}};"
            blocks[f"{rule}_{kind}"] = text
    makes = " ".join(blocks.pop(name) for name in [name for name in blocks if name.endswith("make")])
    code = late_source(blocks).replace("    for (size_t", f"    {makes}\n    for (size_t")
    return build("late_cpp", code, "c++")


def late_pybind11() -> pathlib.Path:
    folder = support.BINDINGS / ("pybind11-2" if sys.version_info < (3, 10) else "pybind11-3") / "pybind11" / "include"
    if not folder.is_dir():
        pytest.skip("pybind11 is not there (make sets it up)")
    head = "#define PYBIND11_SIMPLE_GIL_MANAGEMENT\n#include <pybind11/gil.h>\n"  # one of its two, quick to compile
    head += "namespace py = pybind11;\nstatic pep788::view interpreter;\n"
    code = late_source({f"P111_{kind}": block("P111", kind, "@on_event(kept);") for kind in ("Found", "Fixed")})
    made = "    interpreter = pep788::view::current();\n"
    code = head + code.replace("    for (size_t", made + "    for (size_t")
    return build("late_pybind11", code, "c++", "-isystem", str(folder))


def late_cython() -> pathlib.Path:
    pytest.importorskip("Cython")
    pieces = [CYTHON_HEAD]
    for rule in CYTHON_LATE:
        for kind in ("Found", "Fixed"):
            name = f"{rule}_{kind}"
            pieces.append(example(rule, kind).replace("on_event", name))
            pieces.append(f"cdef void {name}_late() noexcept nogil:\n    {name}(kept)\n\nlate_calls['{name}'] = "
                          f"<size_t>&{name}_late\n")  # fmt: skip
    pyx = support.BUILD / "check" / "late_cython.pyx"
    pyx.parent.mkdir(parents=True, exist_ok=True)
    pyx.write_text("\n".join([*pieces, CYTHON_TAIL]))
    words = [sys.executable, "-m", "cython", "-3", str(pyx), "-o", str(pyx.with_suffix(".c"))]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return support.build_extension("late_cython", [pyx.with_suffix(".c")], extra=["-O0", "-g0", "-w"])


CYTHON_HEAD = """
from cpython.ref cimport Py_INCREF

cdef extern from "pep788.h":
    ctypedef struct PyInterpreterView:
        pass
    ctypedef struct PyThreadStateToken:
        pass
    int Pep788_Init() except -1
    PyInterpreterView *PyInterpreterView_FromCurrent() except NULL
    PyThreadStateToken *PyThreadState_EnsureFromView(PyInterpreterView *view) nogil
    void PyThreadState_Release(PyThreadStateToken *token) nogil
    int Py_AtExit(void (*function)() noexcept nogil)

cdef void *kept
cdef PyInterpreterView *view
late_calls = {}
"""
CYTHON_TAIL = """
def go(data, str name):
    global kept, view
    Pep788_Init()
    view = PyInterpreterView_FromCurrent()
    Py_INCREF(data)
    kept = <void *>data
    if Py_AtExit(<void (*)() noexcept nogil><size_t>late_calls[name]) < 0:
        raise MemoryError
"""
RULES = [*C_LATE, *CPP_LATE, *CYTHON_LATE]


@pytest.fixture(scope="module")
def late_results() -> Iterator[Dict[str, "concurrent.futures.Future[support.Result]"]]:
    """All at once: those that hang wait side by side."""
    folders = {
        "late_c": (late_c(), C_LATE),
        "late_cpp": (late_cpp(), CPP_LATE),
        "late_cython": (late_cython(), CYTHON_LATE),
    }
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = {}
        for module, (folder, rules) in folders.items():
            for rule in rules:
                jobs[f"{rule}_Found"] = pool.submit(run_to_the_end, folder, module, f"{rule}_Found")
                jobs[f"{rule}_Fixed"] = pool.submit(fixed, folder, module, f"{rule}_Fixed")
        yield jobs


@pytest.mark.parametrize("rule", RULES)
def test_too_late(late_results, rule):
    assert late_results[f"{rule}_Fixed"].result().out == "end\n"
    late = late_results[f"{rule}_Found"].result()
    assert late.out == "end\n" and went_wrong(late), late.describe()


def test_scoped_acquire_too_late():
    folder = late_pybind11()
    assert fixed(folder, "late_pybind11", "P111_Fixed").out == "end\n"
    late = run_to_the_end(folder, "late_pybind11", "P111_Found")
    assert late.out == "end\n" and went_wrong(late), late.describe()


# --- others -----------------------------------------------------------------------------------------------------

CALL = "static PyObject *go(PyObject *self, PyObject *args) { %s }\n"


def built(rule: str, kind: str, more: str, before: str = "", *flags: str) -> "tuple[pathlib.Path, str]":
    name = f"{rule}_{kind}".lower()
    return build(name, before + example(rule, kind) + more, "c", *flags), name


def test_wait_attached():
    call = CALL % "return run(self, args);"
    assert fixed(*built("P110", "Fixed", call)).out == "end\n"
    deadlock = run(*built("P110", "Found", call))
    assert deadlock.hung and deadlock.out == "", deadlock.describe()


def test_guard_left_open():
    call = "int work(void) { return -1; }\n" + CALL % "return PyLong_FromLong(run());"
    assert fixed(*built("P201", "Fixed", call)).err == ""
    held = run_to_the_end(*built("P201", "Found", call))
    assert held.out == "end\n"
    assert held.hung if support.NATIVE else "1 open interpreter guard" in held.err, held.describe()


ON_A_THREAD = """
static void *run_it(void *data)
{
    %s;
    return data;
}
static PyObject *go(PyObject *self, PyObject *args)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, run_it, NULL) != 0)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}
"""


def test_missing_release():
    more = ON_A_THREAD % "on_event(NULL)"
    assert fixed(*built("P102", "Fixed", more)).out == "end\n"
    waits = run(*built("P102", "Found", more))
    assert waits.hung and waits.out == "", waits.describe()


# A thread of its own that calls back when the interpreter is gone, and is waited for.
ON_A_LATE_THREAD = """
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static PyThreadState *saved_state;
static PyInterpreterState *interpreter;
static PyObject *callable;
static int waits, too_late, came_back, patience_s;
static void set(int *what)
{
    pthread_mutex_lock(&lock);
    *what = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}
static void *wait_in_a_library(void *data)
{
    PyGILState_Ensure();
    saved_state = PyEval_SaveThread();
    %s;
    set(&waits);
    pthread_mutex_lock(&lock);
    while (!too_late)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    %s;
    set(&came_back);
    return data;
}
static void late(void)
{
    struct timespec until;
    set(&too_late);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += patience_s;
    pthread_mutex_lock(&lock);
    for (int error = 0; !came_back && error == 0;)
        error = pthread_cond_timedwait(&changed, &lock, &until);
    printf(came_back ? "came back\\n" : "lost\\n");
    pthread_mutex_unlock(&lock);
    fflush(stdout);
}
static PyObject *go(PyObject *self, PyObject *args)
{
    pthread_t thread;
    if (!PyArg_ParseTuple(args, "Oi", &callable, &patience_s))
        return NULL;
    Py_INCREF(callable);
    interpreter = PyInterpreterState_Get();
    if (pthread_create(&thread, NULL, wait_in_a_library, NULL) != 0 || Py_AtExit(late) < 0)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&lock);
    while (!waits)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}
"""


LATE_THREADS = {
    "P108": ("", "on_event(interpreter, callable)", "on_event(callable)"),
    "P113": ("saved = saved_state", "on_event()", "on_event()"),
}


def run_late_thread(rule: str, kind: str, patience_s: int, timeout: float) -> support.Result:
    before, found, fixed = LATE_THREADS[rule]
    more = ON_A_LATE_THREAD % ((before, found) if kind == "Found" else ("", fixed))
    folder, name = built(rule, kind, more)
    callable = "functools.partial(os.write, 1, b'called\\n')"
    code = f"import functools, os, {name}\n{name}.go({callable}, {patience_s})\nprint('end', flush=True)"
    return support.run_child(code, path=[folder], timeout=timeout)


@pytest.mark.parametrize("rule", LATE_THREADS)
def test_a_thread_that_is_too_late_never_comes_back(rule):
    """Or it calls Python where there is none any more: with a state that is made by hand, from 3.13 on."""
    assert run_late_thread(rule, "Fixed", 60, 120).check().out == "end\ncame back\n"
    late = run_late_thread(rule, "Found", 1, 30)
    assert late.out.startswith("end\n"), late.describe()
    assert "lost" in late.out or went_wrong(late) or (rule == "P108" and "called" in late.out), late.describe()


# A subinterpreter, by the C API; guard 0 and view 0 are of the main interpreter, 1 of the other one.
SUBINTERPRETER = """
static PyInterpreterGuard *guards[2];
static int64_t there = -1;
static void *run_it(void *data)
{
    %(on_the_thread)s
    return data;
}
static PyObject *go(PyObject *self, PyObject *args)
{
    pthread_t thread;
    PyThreadState *mine = PyThreadState_Get();
    guards[0] = PyInterpreterGuard_FromCurrent();
    PyThreadState *other = Py_NewInterpreter();
    if (other == NULL || Pep788_Init() < 0)
        return NULL;
    int64_t asked = PyInterpreterState_GetID(PyInterpreterState_Get());
    guards[1] = PyInterpreterGuard_FromCurrent();
    %(in_it)s
    PyThreadState_Swap(mine);
    if (pthread_create(&thread, NULL, run_it, NULL) != 0)
        return PyErr_NoMemory();
    Py_BEGIN_ALLOW_THREADS
    pthread_join(thread, NULL);
    Py_END_ALLOW_THREADS
    PyInterpreterGuard_Close(guards[0]);
    PyInterpreterGuard_Close(guards[1]);
    PyThreadState_Swap(other);
    Py_EndInterpreter(other);
    PyThreadState_Swap(mine);
    return PyBool_FromLong(there < 0 || there == asked);
}
"""
ASK = "PyThreadStateToken *token = PyThreadState_EnsureFromView(view); if (token == NULL) return NULL; " \
      "there = PyInterpreterState_GetID(PyInterpreterState_Get()); PyThreadState_Release(token);"  # fmt: skip


def run_with_subinterpreter(
    rule: str, kind: str, on_the_thread: str, in_it: str = "", before: str = "", *flags: str
) -> support.Result:
    more = SUBINTERPRETER % {"on_the_thread": on_the_thread, "in_it": in_it}
    folder, name = built(rule, kind, more, before, *flags)
    code = f"import {name}\nprint({name}.go(), flush=True)"
    # Debian's interpreters have their heap below 2 GiB, where an int is enough for a pointer; what is mapped is above.
    mapped = {"MALLOC_MMAP_THRESHOLD_": "1", "PYTHONMALLOC": "malloc"} if rule == "P106" else {}
    return support.run_child(code, path=[folder], timeout=60, env={**GIVE_UP, **mapped})


def test_state_in_an_int():
    """As it is, it works; with what takes the place of PyGILState_Ensure, the pointer is cut off."""
    assert run_with_subinterpreter("P106", "Fixed", "", "on_event();").check().out == "True\n"
    new = "#define PyGILState_Ensure() PyThreadState_EnsureFromView(view)\n"
    new += "#define PyGILState_Release(token) PyThreadState_Release((PyThreadStateToken *)(long)(token))\n"
    cut = run_with_subinterpreter("P106", "Found", "", "on_event();", new, "-Wno-int-conversion")
    assert cut.signal is not None and cut.out == "", cut.describe()


def test_tokens_out_of_order():
    each = "run(guards[0], guards[1]);"
    assert run_with_subinterpreter("P202", "Fixed", each).check().out == "True\n"
    wrong = run_with_subinterpreter("P202", "Found", each)
    assert went_wrong(wrong) and wrong.out == "", wrong.describe()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Py_mod_multiple_interpreters is new in 3.12")
def test_view_of_main():
    """The callback runs in the main interpreter, not in the one it was registered in."""
    assert run_with_subinterpreter("P204", "Fixed", ASK, "view = register_callback();").check().out == "True\n"
    assert run_with_subinterpreter("P204", "Found", ASK, "enable();").check().out == "False\n"


def test_token_on_another_thread():
    call = CALL % "return run(self, args);"
    assert fixed(*built("P205", "Fixed", call)).out == "end\n"
    wrong = run(*built("P205", "Found", call))
    assert went_wrong(wrong), wrong.describe()
