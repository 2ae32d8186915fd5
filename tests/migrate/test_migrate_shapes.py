"""Shapes that are rare and legal: what becomes of them compiles, and nothing is guessed."""

from __future__ import annotations

import subprocess

import pytest
import support

BODY = "PyGILState_STATE s = PyGILState_Ensure();\n    PyErr_Clear();\n    PyGILState_Release(s);"
VALUES = """
    [defaults]
    "int" = "-99"
    "struct pair" = "(struct pair){0}"
    "const char *const *" = "NULL"
    "void *" = "NULL"
"""
INIT = """
PyMODINIT_FUNC PyInit_x(void)
{
    return PyModule_Create(NULL);
}
"""
MIGRATED = {
    "knr.c": "static int on_event(data, n)\n    void *data;\n    int n;\n{\n    int r;\n    @\n    return data && n;\n}\nint (*keep)() = on_event;\n",
    "goto_web.c": "int f(int n)\n{\n    PyGILState_STATE s;\nagain:\n    if (n > 3) goto out;\n    if (n < 0) { n++; goto again; }\n    s = PyGILState_Ensure();\nback:\n    if (n == 2) goto release;\n    if (n == 1) { n = 2; goto back; }\n    PyErr_Clear();\nrelease:\n    PyGILState_Release(s);\nout:\n    return n;\n}\n",
    "fallthrough.c": "int f(int n)\n{\n    PyGILState_STATE s = PyGILState_Ensure();\n    switch (n) {\n    case 1:\n        PyErr_Clear();\n        /* fallthrough */\n    case 2:\n        PyGILState_Release(s);\n        break;\n    default:\n        PyGILState_Release(s);\n        return 3;\n    }\n    return 0;\n}\n",
    "comments.c": "void f(int n) // {\n{ /* } */\n    PyGILState_STATE /* the */ s = /* it */ PyGILState_Ensure(/* none */); // take \\\n       PyGILState_Release(s);\n    PyErr_Clear(); /* a\n    */ PyGILState_Release(/* it */ s);\n}\n",
    "continued.c": "void f(void)\n{\n    PyGILState_STATE s = \\\n        PyGILState_Ensure \\\n        ();\n    PyErr_Clear();\n    PyGILState_Release \\\n    (s);\n}\n",
    "one_line.c": "int f(void) { PyGILState_STATE s; s = PyGILState_Ensure(); PyErr_Clear(); PyGILState_Release(s); return 1; } int after;\n",
    "returns.c": "struct pair { int a, b; };\nstruct pair f(int n)\n{\n    @\n    return (struct pair){1, 2};\n}\nconst char *const *g(void)\n{\n    @\n    return NULL;\n}\nconst void *h(void)\n{\n    @\n    return NULL;\n}\n",
    "vla.c": "int f(int n)\n{\n    PyGILState_STATE s = PyGILState_Ensure();\n    int a[n + 1];\n    a[0] = n;\n    if (n) goto out;\n    PyErr_Clear();\nout:\n    PyGILState_Release(s);\n    return a[0];\n}\n",
    "names.c": "static int m = 3, x_main_view = 3;\nint f(int n)\n{\n    @\n    return m + x_main_view;\n}\n",
    "windows.c": "#define CALLBACK\n#define WINAPI\nvoid CALLBACK f(int n)\n{\n    @\n}\nint WINAPI g(int n)\n{\n    @\n    return n;\n}\n",
    "templates.cpp": "template <typename T, int N = (3 > 2)> struct Box {\n    template <typename U> int run(U &&u) noexcept;\n    void call() { @ }\n};\ntemplate <typename T, int N> template <typename U> int Box<T, N>::run(U &&u) noexcept\n{\n    auto state = PyGILState_Ensure();\n    PyErr_Clear();\n    PyGILState_Release(state);\n    return N;\n}\nint use() { Box<int> b; b.call(); return b.run(3); }\n",
    "attributes.cpp": "[[maybe_unused]] static int f [[gnu::noinline]] (int n) noexcept(true)\n{\n    [[maybe_unused]] PyGILState_STATE s = PyGILState_Ensure();\n    if (n > 2) [[unlikely]] { PyGILState_Release(s); return 1; }\n    PyErr_Clear();\n    PyGILState_Release(s);\n    return 0;\n}\n",
    "raw_strings.cpp": 'const char *text = R"x(\nvoid fake() { PyGILState_STATE s = PyGILState_Ensure(); } "{ )x";\nvoid f()\n{\n    const char *q = R"(")" "}" R"--({ // )--";\n    PyGILState_STATE s = PyGILState_Ensure(); /* " */\n    PyErr_SetString(PyExc_ValueError, q); // }\n    PyGILState_Release(s);\n}\n',
    "lambdas.cpp": "auto a = [] { @ };\nauto b = [](int) -> void { @ };\nvoid f() { [&] { [&] { @ }(); }(); }\n",
    "trailing.cpp": "auto f(int n) -> int\n{\n    @\n    return n;\n}\nauto g(int n) -> void\n{\n    @\n}\n",
    "constexpr_if.cpp": "template <bool B> int f(int n)\n{\n    if constexpr (B) {\n        @\n        return 1;\n    } else\n        return n;\n}\nint use() { return f<true>(1) + f<false>(2); }\n",
}


@pytest.mark.parametrize("name", MIGRATED)
def test_migrated(migrator, tmp_path, name):
    """All of its sites, to code that the compiler takes, and that a second run leaves as it is."""
    text = "#include <Python.h>\n" + MIGRATED[name].replace("@", BODY) + INIT
    report = migrator.report({name: text}, VALUES)
    assert report.sites and {(site.outcome.value, site.reason) for site in report.sites} == {("migrated", "")}
    (after,) = report.after.values()
    (tmp_path / name).write_bytes(after)
    language, std = ("c++", "c++17") if name.endswith("cpp") else ("c", "gnu11")
    words = [*support.compile_command(language, std), "-w", "-fsyntax-only", str(tmp_path / name)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout + after.decode()
    again = migrator.report({}, VALUES)
    assert (again.sites, again.after) == ([], {})


LEFT = [
    pytest.param("x.cpp", "Task f() { @ co_return; }", "a coroutine", id="coroutine"),
    pytest.param("x.c", "void f(void)\n{\n#pragma omp parallel\n{\n@\n}\n}\n", "no return may leave the block of #pragma omp parallel", id="OpenMP"),
    pytest.param("x.c", "PyObject *f(PyObject *a)\n{\nPy_BEGIN_ALLOW_THREADS\n{ @ }\nPy_END_ALLOW_THREADS\nreturn a;\n}\n", "the function has detached in line 5: a return would go on without", id="between BEGIN and END"),
    pytest.param("x.c", "int f(int a)\n{\nPyThreadState *t = PyEval_SaveThread();\n@\nPyEval_RestoreThread(t);\nreturn a;\n}\n", "the function has detached in line 5", id="between Save and Restore"),
    pytest.param("x.c", "__attribute__((noreturn)) void f(int n)\n{\n@\nabort();\n}\n", "declared not to return", id="noreturn"),
    pytest.param("x.mm", "@implementation X\n- (void)on {\n@\n}\n@end\n", "Objective-C", id="a method of Objective-C"),
    pytest.param("x.mm", "void f(void)\n{\nPyGILState_STATE s = PyGILState_Ensure();\ndispatch_async(q, ^{ g(); });\nPyGILState_Release(s);\n}\n", "Objective-C", id="a function of Objective-C"),
    pytest.param("x.c", "void f(int n)\n{\nPyGILState_STATE s = PyGILState_Ensure();\n#if A\nif (n) {\n#else\nif (!n) {\n#endif\ng();\n}\nPyGILState_Release(s);\n}\n", "conditional compilation cuts through it", id="half a brace"),
    pytest.param("x.c", "#define IF(x) if (x) {\n#define FI }\nvoid f(int n)\n{\nIF (n)\n@\nFI\n}\n", "its paths cannot be followed", id="macros with braces"),
    pytest.param("x.c", "#define TAKE PyGILState_Ensure\nvoid f(void)\n{\nPyGILState_STATE s = TAKE();\nPyGILState_Release(s);\n}\n", "TAKE is another name of PyGILState_Ensure: write it out", id="another name"),
    pytest.param("x.c", "#define HANDLER(name) int name(int n) { @ return n; }\nHANDLER(one)\n".replace("@", BODY.replace("\n", " ")), "HANDLER", id="a macro that makes functions"),
    pytest.param("x.c", "void f(void)\n{\nPyGILState_STATE s;\n(s) = PyGILState_Ensure();\nPyGILState_Release((s));\n}\n", "it is released under another name", id="in parentheses"),
    pytest.param("x.c", "void f(void)\n<%\n@\n%>\n", "no call that was understood", id="digraphs"),
    pytest.param("x.c", "void f(void)\n??<\n@\n??>\n", "no call that was understood", id="trigraphs"),
    pytest.param("x.c", "void f(int n)\n{\nvoid *to[] = {&&a, &&b};\nPyGILState_STATE s = PyGILState_Ensure();\ngoto *to[n];\na: g();\nb: PyGILState_Release(s);\n}\n", "its paths cannot be followed", id="computed goto"),
    pytest.param("x.c", "int f(int n)\n{\nreturn ({ @ n; });\n}\n", "PyGILState_Ensure is in a construct", id="statement expression"),
    pytest.param("x.c", "void f(void)\n{\nvoid g(void) { @ }\ng();\n}\n", "PyGILState_Ensure is in a construct", id="nested function"),
]  # fmt: skip


@pytest.mark.parametrize("name, text, reason", LEFT)
def test_left_alone(migrator, name, text, reason):
    report = migrator.report({name: "#include <Python.h>\n\n" + text.replace("@", BODY)}, "view = 'view'\n" + VALUES.replace("    ", ""))
    assert report.after == {}
    assert {site.outcome.value for site in report.sites} == {"skipped"}
    assert any(reason in site.reason or reason == site.function for site in report.sites), [site.reason for site in report.sites]


def test_what_a_function_that_returns_a_function_returns_is_asked(migrator):
    """It is no `void` function, though that word comes first."""
    text = "void (*f(int n))(int)\n{\n    " + BODY + "\n    return NULL;\n}\n"
    migrator.asks(text, "what does f return (void (*)(int)) where Python is finalizing?")
    site, after = migrator.one(text, values=("f=NULL",))
    assert site.outcome.value == "migrated" and b"return NULL;\n    }\n" in after


def test_a_function_of_a_module_of_cpp20(migrator):
    text = "export module m;\nexport void f()\n{\n    " + BODY + "\n}\n"
    site, after = migrator.one(text, name="x.cpp")
    assert (site.outcome.value, site.function) == ("migrated", "f")
    assert after.startswith(b"export module m;\nexport void f()\n") and b"        return;\n" in after


CYTHON_LEFT = [
    pytest.param("@cython.boundscheck(False)\n# why\ncdef void f(void *d) noexcept with gil:\n    print(1)\nreg(f)\n", "f has a decorator", id="decorator"),
    pytest.param("cdef void f(void *d) noexcept with gil:\n    print(1)\ncdef cb keep = f\n", "f is used in line 3 as no argument", id="assigned"),
    pytest.param("cdef:\n    void f(void *d) noexcept with gil:\n        print(1)\nreg(f)\n", "f is no function at the level of the module", id="cdef block"),
    pytest.param("cdef int f(void *d) \\\n        noexcept with gil:\n    return 1\nreg(f)\n", "the head of f is not plain", id="head of two lines"),
    pytest.param("ctypedef fused num:\n    int\n    double\ncdef void f(num x) noexcept with gil:\n    print(x)\nreg(f[int])\n", "may be a Python object (num x)", id="fused type"),
]  # fmt: skip


@pytest.mark.parametrize("text, reason", CYTHON_LEFT)
def test_cython_left_alone(migrator, text, reason):
    report = migrator.report({"x.pyx": text}, VALUES)
    assert report.after == {}
    assert [(site.outcome.value, reason in site.reason) for site in report.sites] == [("skipped", True)], report.sites[0].reason
