"""Any bytes in, never an exception out; and the same findings however the bytes around them look."""

from __future__ import annotations

import re

import pytest
import support

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

SETTINGS = settings(
    max_examples=80, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
NAMES = ["x.c", "x.cpp", "x.h", "x.i", "x.pyx", "x.pxd", "x.py", "x.so", "x.pyd", "x.dylib", "x.c.in"]

# Pieces that put a parser of C, of macros, of Cython and of paths through functions to work.
PIECES = st.sampled_from(
    [
        *"{ } ( ) ; , * & \n \t \\\n # \" ' / // /* */ %{ %} :".split(" "),
        *"if else for while do switch case default break continue return goto out out: throw try catch struct".split(),
        *"class template< > namespace std::thread ~X noexcept auto [&] => void int PyObject".split(),
        "PyGILState_STATE s = PyGILState_Ensure();",
        "PyGILState_Release(s);",
        "s = PyGILState_Ensure()",
        "Py_BEGIN_ALLOW_THREADS",
        "Py_END_ALLOW_THREADS",
        "py::gil_scoped_acquire g;",
        "PyThreadStateToken *t = PyThreadState_EnsureFromView(v);",
        "if (t == NULL) return;",
        "PyThreadState_Release(t);",
        "PyInterpreterGuard *g = PyInterpreterGuard_FromView(v);",
        "#define M PyGILState_Ensure()\n",
        "#define N(a, b) M; a = N(b, a)\n",
        "M N(s, t)",
        "#if PY_VERSION_HEX < 0x03000000\n",
        "#ifdef X\n",
        "#else\n",
        "#endif\n",
        "#elif defined(Y)\n",
        "%typemap(in) T {\n",
        "\n%exception {\n",
        "\n%extend X {\n",
        "$action",
        "std::thread t([&] { PyThreadState_Release(t); });",
        "pthread_create(&thread, NULL, f, t);",
        "PyEval_RestoreThread(s);",
        "@cython.with_gil\n",
        "#define LEAVE(l) goto l; return\n",
        "LEAVE(out);",
        "cdef void f() noexcept nogil:\n    with gil:\n        pass\n",
        "cdef int g() except -1 with gil: return 0\n",
        "import cython\n",
        "pthread_join(t, NULL);",
        "Py_IsFinalizing()",
        "PyInterpreterState_Main()",
        "/* pep788: ignore[P101] */",
    ]
)
CODE = st.lists(PIECES, max_size=60).map(" ".join).map(str.encode)
BYTES = st.binary(max_size=400)
MIXED = st.tuples(CODE, BYTES, CODE).map(b"PyGILState_Ensure\n".join)


def check(*files):
    from pep788_check import engine
    from pep788_check.sources import Item

    items = [Item(name, data) for name, data in files]
    return engine.check(engine.Options(paths=(), notes=True, every_file=True), lambda: items)


@SETTINGS
@given(name=st.sampled_from(NAMES), data=st.one_of(BYTES, CODE, MIXED))
def test_any_bytes(checker, name, data):
    from pep788_check.output import github, machine, sarif
    from pep788_check.registry import all_rules

    report = check((name, data))
    for finding in report.findings:
        assert 0 <= finding.span.start <= finding.span.end <= len(data)
        if finding.span.line:
            line = data.split(b"\n")[finding.span.line - 1].decode("utf-8", "replace")
            assert finding.span.column <= len(line) + 1
    machine.write(report), sarif.write(report, all_rules(), "0"), github.write(report)


def samples():
    """The examples of the pages: real code of every kind that a rule looks for."""
    kinds = {"c": "x.c", "cpp": "x.cpp", "cython": "x.pyx"}
    found = []
    for page in sorted((support.REPO / "docs" / "rules").glob("P*.md")):
        for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            found.append((kinds[language], code.encode()))
    return found


EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 40), st.one_of(st.binary(max_size=3), PIECES.map(str.encode))), max_size=4)


@settings(SETTINGS, max_examples=120)
@given(sample=st.sampled_from(samples()), edits=EDITS, swig=st.booleans())
def test_real_code_with_pieces_cut_out_and_put_in(checker, sample, edits, swig):
    name, data = sample
    for place, length, text in edits:
        at = int(place * len(data))
        data = data[:at] + text + data[at + length :]
    report = check((name, data), ("x.i", b"%exception {" + data + b"}\n%{" + data + b"%}") if swig else ("y.h", data))
    for finding in report.findings:
        for edit in finding.edits:
            assert finding.span.path in (name, "x.i", "y.h") and 0 <= edit.start <= edit.end


@settings(SETTINGS, max_examples=100)
@given(data=st.one_of(CODE, MIXED, st.lists(PIECES, max_size=40).map(lambda parts: "\n".join(parts).encode())))
def test_no_byte_moves_where_code_is_left_out(checker, data):
    from pep788_check import ctree, preprocessor, swig

    assert len(swig.c_code(data)) == len(data)
    cuts = preprocessor.cuts(data, ctree.directive_truth)
    assert all(0 <= start <= end <= len(data) for start, end in cuts)
    assert preprocessor.blank(data, cuts).count(b"\n") == data.count(b"\n")


@SETTINGS
@given(one=CODE, other=CODE)
def test_macros_of_one_file_in_another(checker, one, other):
    check(("a.h", one), ("b.c", other))


@settings(SETTINGS, max_examples=25)
@given(data=st.one_of(BYTES, CODE))
def test_archives_and_binaries_of_any_bytes(checker, tmp_path_factory, data):
    from pep788_check import engine

    folder = tmp_path_factory.mktemp("archives")
    for name in ("a.zip", "a.tar.gz", "a.tar"):
        (folder / name).write_bytes(data)
    engine.check(engine.Options(paths=tuple(str(folder / name) for name in ("a.zip", "a.tar.gz", "a.tar"))))
    for magic in (b"\x7fELF\x02\x01\x01", b"MZ", b"\xcf\xfa\xed\xfe"):
        check(("x.so", magic + data))


@pytest.mark.parametrize("opening, closing", [("{", "}"), ("(", ")"), ("if (x) ", ";"), ("#if X\n", "\n#endif"), ("[", "]")])
@pytest.mark.parametrize("name", ["x.c", "x.cpp", "x.pyx"])
def test_nesting_without_end(checker, name, opening, closing):
    body = "PyGILState_STATE s = PyGILState_Ensure(); gil " + opening * 20_000 + closing * 20_000
    check((name, f"void f(void) {{ {body} PyGILState_Release(s); }}".encode()))


def test_many_nested_loops_end(checker):
    loops = "".join(f"for (int i{n} = 0; i{n} < 3; i{n}++) {{ if (f({n})) break; " for n in range(40))
    body = loops + "PyGILState_STATE s = PyGILState_Ensure(); PyGILState_Release(s);" + "}" * 40
    report = check(("x.c", f"void f(void) {{ {body} }}".encode()))
    assert [finding.rule for finding in report.findings] == ["P101"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(lambda text: text.replace(b"    ", b"\t"), id="tabs"),
        pytest.param(lambda text: text.replace(b"data", "größe".encode("latin-1")), id="Latin-1"),
        pytest.param(lambda text: b"\xef\xbb\xbf" + text, id="byte-order mark"),
        pytest.param(lambda text: text.rstrip(), id="no final newline"),
        pytest.param(lambda text: text.replace(b"}", b"/* \0 */ }"), id="null byte in a comment"),
    ],
)
def test_bytes_around_it_change_nothing(checker, change):
    text = b"void on_event(int data)\n{\n    PyGILState_STATE s = PyGILState_Ensure();\n    if (data)\n        return;\n"
    text += b"    PyGILState_Release(s);\n}\n"
    data = change(text)
    report = check(("x.c", data))
    assert [(f.rule, f.span.line) for f in report.findings] == [("P101", 3), ("P102", 5)]
    found = [data[f.span.start : f.span.end] for f in report.findings]
    assert found == [b"PyGILState_Ensure()", b"return;"]
    assert report.skipped == []


CYTHON_PIECES = st.recursive(
    st.sampled_from(
        "pass|s = PyGILState_Ensure()|PyGILState_Release(s)|return s|raise E(s)|break|continue|t = PyThreadState_Ensure(g)|"
        "PyThreadState_Release(<T *>t)|global s|cdef int x[3], *y = NULL, z = f(&x)|a, (b, *c) = d = [e for e in s]|s += 1|"
        "del s[0]|assert t != NULL, s|x = (yield s) if s else lambda q: q|f(*s, t=t, **u)|o.s, new = s, sizeof(new)|"
        "import cython as c|from a cimport PyGILState_Ensure as s|while (n := s): break|s = f'{s!r:>{t}}'|s = t = <object>s|"
        "for s in range(3): continue|1 < s <= t is not None|pthread_join(s, &t)|s = new thread(f, not s)".split("|")
    ).map(lambda line: [line]),
    lambda blocks: st.tuples(
        st.sampled_from(
            "if s == NULL:|while not s:|for i in s:|for i from 0 <= i < 3:|with gil:|with nogil:|with cython.gil:|with s as t:|"
            "def inner(a, *b, c=s, **d):|class C(s):|try:~except E as s:~else:~finally:|try:~finally:|"
            "try:~except:|if s:~elif t:~else:|match s:~    case [1, *t]:".split("|")
        ),
        st.lists(blocks, min_size=1, max_size=3).map(lambda parts: [line for part in parts for line in part]),
    ).map(lambda pair: [line for head in pair[0].split("~") for line in (head, *("    " * (2 if head[0] == " " else 1) + x for x in pair[1] if "match" not in head))]),
    max_leaves=25,
)  # fmt: skip


@settings(SETTINGS, max_examples=120)
@given(lines=st.lists(CYTHON_PIECES, min_size=1, max_size=4), head=st.sampled_from(["cdef int f() nogil:", "def f(x):", "cdef void *f(T *x) except * with gil:"]))
def test_every_cython_statement_has_its_paths(checker, lines, head):
    from pep788_check import cython_tree
    from pep788_check.project import Project

    data = "\n".join([head, *("    " + line for part in lines for line in part)]).encode()
    try:
        file = cython_tree.parse("x.pyx", data)
    except cython_tree.CannotParse:
        return
    assert file.lost == []
    for function in Project(cython=[file]).with_cython.functions:
        assert not function.has_error
    for finding in check(("x.pyx", data)).findings:
        assert 1 <= finding.span.line <= data.count(b"\n") + 1 and finding.span.end <= len(data)
