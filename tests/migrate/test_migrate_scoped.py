"""gil_scoped_acquire of pybind11 and nanobind: ours and a test in its place, or a reason."""

from __future__ import annotations

import pytest
from pep788_tools.migrate import cli

SOURCE = """\
#include <pybind11/pybind11.h>

namespace py = pybind11;

static void on_event(py::object *handler)
{
    py::gil_scoped_acquire gil;
    (*handler)();
}

PYBIND11_MODULE(example, m, py::mod_gil_not_used())
{
    m.def("f", &f);
}
"""

AFTER = """\
#include <pybind11/pybind11.h>
#include <pep788/pybind11.hpp>

namespace py = pybind11;

static void on_event(py::object *handler)
{
    pep788::py::gil_scoped_acquire gil;
    if (!gil) {
        return;
    }
    (*handler)();
}

PYBIND11_MODULE(example, m, py::mod_gil_not_used())
{
    pep788::py::init();
    m.def("f", &f);
}
"""

NANOBIND = """\
#include <nanobind/nanobind.h>
static void on_event(void (*call)()) noexcept { std::thread([call] { nanobind::gil_scoped_acquire gil; call(); }).detach(); }
NB_MODULE(example, m) { m.def("f", &f); }
"""

NANOBIND_AFTER = """\
#include <nanobind/nanobind.h>
#include <pep788/nanobind.hpp>
static void on_event(void (*call)()) noexcept { std::thread([call] { pep788::nb::gil_scoped_acquire gil; if (!gil) { return; } call(); }).detach(); }
NB_MODULE(example, m) { pep788::nb::init(); m.def("f", &f); }
"""


def run(migrator, text, toml="", values=(), **options):
    report = migrator.report({"x.cpp": text}, toml, values, **options)
    return report, [data.decode() for data in report.after.values()]


@pytest.mark.parametrize("before, after", [(SOURCE, AFTER), (NANOBIND, NANOBIND_AFTER)], ids=["pybind11", "nanobind"])
def test_migrated(migrator, before, after):
    report, found = run(migrator, before)
    assert [(site.outcome.value, site.reason) for site in report.sites] == [("migrated", "")]
    assert found == [after]
    assert [view.how.split(" ")[0] for view in report.views] == ["to"]
    assert run(migrator, after)[0].sites == []


def test_value(migrator):
    text = SOURCE.replace("static void on_event", "static int on_event").replace("(*handler)();\n", "return (*handler)().cast<int>();\n")
    report, found = run(migrator, text)
    assert (report.sites[0].outcome.value, found) == ("needs a decision", [])
    assert "what does on_event return (int)" in report.sites[0].reason
    assert "        return -1;\n" in run(migrator, text, values=("on_event=-1",))[1][0]


def test_more_of_the_module_is_in_other_files(migrator):
    start = SOURCE.index("PYBIND11_MODULE")
    files = {"a.cpp": SOURCE[:start], "sub/m.cpp": "#include <pybind11/pybind11.h>\n" + SOURCE[start:]}
    report = migrator.report(files, vendored=str(migrator.folder / "inc"))
    first, second = (report.after[path].decode() for path in sorted(report.after))
    assert '#include "inc/pep788/pybind11.hpp"\n' in first and "init()" not in first
    assert '#include "../inc/pep788/pybind11.hpp"\n' in second and "{\n    pep788::py::init();\n" in second


ASKED = [
    pytest.param(SOURCE.replace("PYBIND11_MODULE", "int f"), "in which PYBIND11_MODULE is pep788::py::init() to be called?", id="no module"),
    pytest.param(SOURCE + "PYBIND11_MODULE(other, m) {}\n", "Of those there are 2", id="two modules"),
    pytest.param(
        SOURCE.replace("    py::gil_scoped_acquire gil;\n    (*handler)();\n", "    {\n        py::gil_scoped_acquire gil;\n        (*handler)();\n    }\n    pass_on();\n"),
        "`pass_on()` in line 11 is outside of the pair",
        id="work behind its block",
    ),
    pytest.param(SOURCE.replace("    py::gil", "    mutex.lock();\n    py::gil"), "`mutex.lock()` in line 7 was done before", id="a lock"),
    pytest.param(SOURCE.replace("(*handler)();", "done.notify_one();"), "`done.notify_one()` in line 8 would not be done", id="notified"),
]  # fmt: skip


@pytest.mark.parametrize("text, question", ASKED)
def test_asked(migrator, text, question):
    report, found = run(migrator, text)
    assert ([site.outcome.value for site in report.sites], found) == (["needs a decision"], [])
    assert question in report.sites[0].reason


SKIPPED = [
    pytest.param(SOURCE.replace("acquire gil", "acquire gil(true)"), "it is no plain variable", id="arguments"),
    pytest.param(SOURCE.replace("(*handler)", "use(gil); (*handler)"), "gil is used, too", id="used"),
    pytest.param(SOURCE.replace("namespace py = pybind11;", "namespace py = mine;"), "neither pybind11's nor nanobind's", id="another namespace"),
    pytest.param(SOURCE.replace("    py::gil", "#ifdef X\n    py::gil").replace("gil;\n", "gil;\n#endif\n"), "is in conditional compilation", id="#ifdef"),
    pytest.param(SOURCE.replace("    py::gil", "    Py_BEGIN_ALLOW_THREADS\n    {\n    py::gil").replace(")();\n}", ")();\n    }\n    Py_END_ALLOW_THREADS\n}"), "the function has detached in line 7", id="detached"),
    pytest.param(SOURCE.replace("    (*h", "    co_await (*h"), "a coroutine", id="coroutine"),
    pytest.param("namespace py = pybind11;\nstruct S { S() { py::gil_scoped_acquire gil; f(); } };\n", "in a constructor", id="constructor"),
    pytest.param(
        "namespace py = pybind11;\nint f() { return g([]() -> int { py::gil_scoped_acquire gil; return h(); }); }\n",
        "a lambda that returns something",
        id="lambda with a value",
    ),
]  # fmt: skip


@pytest.mark.parametrize("text, reason", SKIPPED)
def test_skipped(migrator, text, reason):
    report, found = run(migrator, text)
    assert ([site.outcome.value for site in report.sites], found) == (["skipped"], [])
    assert reason in report.sites[0].reason


def test_a_pair_in_a_lambda(migrator):
    text = "void f()\n{\n    run([] {\n        PyGILState_STATE s = PyGILState_Ensure();\n        PyErr_Print();\n        PyGILState_Release(s);\n    });\n}\n"
    after = text.replace("PyGILState_STATE s", "PyThreadStateToken *s").replace("PyGILState_Ensure()", "PyThreadState_EnsureFromView(view)")
    after = after.replace("view);\n", "view);\n        if (s == NULL) {\n            return;\n        }\n")
    migrator.becomes(text, after.replace("PyGILState_Release", "PyThreadState_Release"), name="x.cpp")


@pytest.mark.usefixtures("migrator")  # skips where the parsers are missing
def test_its_headers_are_vendored(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.cpp").write_text(SOURCE)
    assert cli.main(["x.cpp", "--vendor", "inc"]) == 0
    assert "--apply copies pep788.h and that for pybind11 to inc, too" in capsys.readouterr().err
    assert cli.main(["x.cpp", "--vendor", "inc", "--apply", "--allow-dirty"]) == 0
    assert (tmp_path / "x.cpp").read_text() == AFTER.replace("<pep788/pybind11.hpp>", '"inc/pep788/pybind11.hpp"')
    names = {path.relative_to(tmp_path / "inc").as_posix() for path in (tmp_path / "inc").rglob("*.h*")}
    assert names == {"pep788.h", "pep788.hpp", "pep788/binding.hpp", "pep788/pybind11.hpp"}
