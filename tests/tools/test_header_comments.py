"""What docs/_ext/header_comments.py reads out of headers, from which the reference is made."""

from __future__ import annotations

import re
import sys

import pytest
import support

sys.path.insert(0, str(support.REPO / "docs" / "_ext"))
import header_comments  # noqa: E402

HEADER = (support.INCLUDE / "pep788.h").read_text(encoding="utf-8")
CPP_HEADERS = sorted(support.INCLUDE.rglob("*.hpp"))

NINE = {
    "PyInterpreterGuard_FromCurrent",
    "PyInterpreterGuard_FromView",
    "PyInterpreterGuard_Close",
    "PyInterpreterView_FromCurrent",
    "PyInterpreterView_FromMain",
    "PyInterpreterView_Close",
    "PyThreadState_Ensure",
    "PyThreadState_EnsureFromView",
    "PyThreadState_Release",
}


def items(code: str) -> list[tuple[str, str, str]]:
    return [(item.kind, item.signature, item.text) for item in header_comments.c_items(code)]


# --- C --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code, expected",
    [
        pytest.param(
            "/* Sets up. */\nstatic inline int Pep788_Init(void)\n{\n}\n",
            ("function", "int Pep788_Init(void)", "Sets up."),
            id="function",
        ),
        pytest.param(
            "/*\n * Of two\n * lines.\n */\nstatic inline PyObject *Pep788_Get(PyObject *a,\n        int b)\n{\n}\n",
            ("function", "PyObject *Pep788_Get(PyObject *a, int b)", "Of two\nlines."),
            id="arguments on two lines",
        ),
        pytest.param(
            "/*\n * void PyThreadState_Release(\n *     PyThreadStateToken *token)\n *\n * Undoes.\n */\n"
            "#define PyThreadState_Release pep788_Release\n",
            ("function", "void PyThreadState_Release( PyThreadStateToken *token)", "Undoes."),
            id="macro with its prototype",
        ),
        pytest.param(
            "/* A view. */\ntypedef struct PyInterpreterView PyInterpreterView;\n", ("type", "PyInterpreterView", "A view."), id="type"
        ),
        pytest.param('/* Which. */\n#define PEP788_VERSION "1"\n', ("macro", "PEP788_VERSION", "Which."), id="version"),
    ],
)
def test_declaration(code, expected):
    assert items(code) == [expected]


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("/* Ours. */\nstatic inline int pep788_own(void)\n{\n}\n", id="lower case"),
        pytest.param("/* Ours. */\ntypedef struct pep788_cell pep788_cell;\n", id="type of ours"),
        pytest.param("/* Prose. */\n\nstatic int Pep788_x;\n", id="nothing below"),
        pytest.param("    /* Inside. */\ntypedef struct PyX PyX;\n", id="not in the first column"),
    ],
)
def test_what_is_not_public_is_left_out(code):
    assert items(code) == []


def test_enumerators():
    (item,) = header_comments.c_items(
        "/* Why. */\ntypedef enum {\n    PEP788_OK = 0,\n    PEP788_GONE = 3,  /* destroyed */\n} Pep788_Failure;\n"
    )
    assert (item.kind, item.name) == ("enum", "Pep788_Failure")
    assert [(each.signature, each.text) for each in item.members] == [("PEP788_OK = 0", ""), ("PEP788_GONE = 3", "destroyed")]


@pytest.mark.parametrize(
    "code",
    ["static inline int Pep788_New(void)\n{\n}\n", "/* Far. */\n\n\nint x;\n#define PyThreadState_New2 pep788_New2\n"],
    ids=["function", "macro"],
)
def test_public_function_without_a_comment_is_an_error(code):
    with pytest.raises(header_comments.HeaderError, match="New.*comment"):
        header_comments.c_items(code)


def test_introduction():
    top = header_comments.introduction(
        "/*\n * x.h - what it is\n *\n * Define before:\n *   ONE      first\n *   TWO=s    second,\n *            and more\n"
        " *\n * Copyright me\n */\n"
    )
    assert top.text == "x.h - what it is"
    assert top.lists == {"Define before": {"ONE": "first", "TWO=s": "second, and more"}}


def test_the_header_is_covered():
    found = header_comments.c_items(HEADER)
    names = [item.name for item in found]
    assert len(names) == len(set(names)) and NINE <= set(names)
    assert all(item.text for item in found)
    assert {"PyInterpreterGuard", "PyInterpreterView", "PyThreadStateToken", "Pep788_Failure"} <= set(names)
    settings = header_comments.introduction(HEADER).lists
    assert {name.partition("=")[0] for entries in settings.values() for name in entries} >= {
        "PEP788_ALWAYS",
        "PEP788_REPLACE_GILSTATE",
        "PEP788_REPORT_AFTER",
        "PEP788_GIVE_UP_AFTER",
        "PEP788_TRACE",
    }


def test_prototypes_in_comments_are_those_of_the_functions():
    for item in header_comments.c_items(HEADER):
        if item.name in NINE:
            own = re.search(rf"#define {item.name} (\w+)", HEADER)
            assert own is not None
            written = item.signature.replace(item.name, own[1])
            assert f"static inline {written}\n" in HEADER, item.signature


# --- C++ ------------------------------------------------------------------------------------------------------

CPP = """\
/*
 * x.hpp: what it is.
 */
namespace pep788 HIDDEN {
namespace detail {

/* Owns. */
template <typename Handle, void (*Close)(Handle *)>
class handle {
public:
    explicit handle(Handle *owned) noexcept : handle_(owned) {}
    handle(const handle &) = delete;
    handle(handle &&other) noexcept : handle_(other.release()) {}
    handle &operator=(handle &&other) noexcept
    {
        return *this;
    }
    ~handle() noexcept { reset(); }

    explicit operator bool() const noexcept { return handle_ != nullptr; }

    /* Borrowed. */
    Handle *get() const noexcept { return handle_; }

private:
    /* Not shown. */
    Handle *handle_;
};

} // namespace detail

/* Sees. */
class view : public detail::handle<PyInterpreterView, detail::close> {
public:
    view() noexcept {}

    /* Of this one. */
    static view current() noexcept { return view(PyInterpreterView_FromCurrent()); }

private:
    static int hidden() { return 1; }
};

/* Sees as well. */
using other = detail::handle<int, nullptr>;

/* Holds. */
inline object hold(int owned) noexcept { return object(owned); }

inline view::view(int) noexcept : handle(nullptr) {}

} // namespace pep788
"""


def test_class_has_what_its_base_in_detail_has():
    view, other, hold = header_comments.cpp_items(CPP)
    assert (view.kind, view.signature, view.text, view.namespace) == ("class", "view", "Sees.", "pep788")
    assert [(each.signature, each.text) for each in view.members] == [
        ("view() noexcept", ""),
        ("static view current() noexcept", "Of this one."),
        ("explicit operator bool() const noexcept", ""),
        ("PyInterpreterView *get() const noexcept", "Borrowed."),
    ]
    assert (other.kind, other.text) == ("class", "Sees as well.")
    assert "explicit other(Handle *owned) noexcept" in [each.signature for each in other.members]
    assert (hold.kind, hold.signature) == ("function", "object hold(int owned) noexcept")


@pytest.mark.parametrize("code", ["class view {\n};\n", "inline void init()\n{\n}\n", "using a = int;\n"])
def test_public_declaration_without_a_comment_is_an_error(code):
    with pytest.raises(header_comments.HeaderError, match="comment"):
        header_comments.cpp_items(f"namespace pep788 {{\n{code}}} // namespace pep788\n")


def test_template_parameters_are_shown_as_callers_write_them():
    code = (
        "namespace pep788 {\n/* Calls. */\ntemplate <typename R>\nclass call {\npublic:\n"
        "    template <typename V = R, typename std::enable_if<!std::is_void<V>::value, int>::type = 0>\n"
        "    R or_return(V value) const\n    {\n        return value;\n    }\n};\n} // namespace pep788\n"
    )
    (item,) = header_comments.cpp_items(code)
    assert item.signature == "template <typename R> call"
    assert [each.signature for each in item.members] == ["template <typename V = R> R or_return(V value) const"]


def test_all_classes_of_the_header_are_covered():
    (header,) = [path for path in CPP_HEADERS if path.name == "pep788.hpp"]
    found = {item.name: item for item in header_comments.cpp_items(header.read_text(encoding="utf-8"))}
    assert {"view", "guard", "attached", "kept", "object"} <= set(found)
    assert all(item.text for item in found.values())
    for name, member in (("view", "get"), ("guard", "reset"), ("attached", "is_valid"), ("object", "steal")):
        assert member in [each.name for each in found[name].members]


@pytest.mark.parametrize("path", CPP_HEADERS, ids=lambda path: path.name)
def test_no_code_is_taken_for_a_signature(path):
    others = [other.read_text(encoding="utf-8") for other in CPP_HEADERS if other != path]
    for item in header_comments.cpp_items(path.read_text(encoding="utf-8"), *others):
        for each in (item, *item.members):
            assert not re.search(r"[{}]|return |#|/\*|\bdetail::", each.signature), each.signature
            assert each.signature.count("(") == each.signature.count(")"), each.signature
