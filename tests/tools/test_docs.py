"""The documentation: its examples compile and run, its links lead somewhere, its help text is the real one."""

from __future__ import annotations

import ast
import os
import pathlib
import re
import sys
import textwrap
import xml.dom.minidom

import pytest
import support

README = support.REPO / "README.md"
PAGES = [README, support.REPO / "CHANGELOG.md", support.REPO / "bench" / "README.md", *sorted((support.REPO / "docs").rglob("*.md"))]

MODULE = """
static PyMethodDef methods[] = {{"start", start, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "readme", NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_readme(void)
{
    if (Pep788_Init() < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
#ifdef Py_GIL_DISABLED
    if (module != NULL) {
        PyUnstable_Module_SetGIL(module, Py_MOD_GIL_NOT_USED);
    }
#endif
    return module;
}
"""


def example(label: str) -> str:
    """The code block of the README that is marked with this label."""
    found = re.search(rf"<!-- test: {label}.*? -->\n```\w+\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert found, f"README has no block marked {label}"
    return found.group(1)


def build_example(file: str, text: str, **options) -> pathlib.Path:
    # A name of its own for each content: the build is cached by path and content.
    source = support.BUILD / "readme" / file
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    return support.build_extension(source.stem, [source], **options)


@pytest.fixture(scope="module")
def readme_module(tmp_path_factory) -> pathlib.Path:
    return build_example("readme.c", example("C") + MODULE)


@pytest.mark.parametrize("threads", [1, 4])
def test_C_example_calls_back_and_ends(readme_module, threads):
    for _ in range(support.tries(3)):
        result = support.run_child(
            f"""
import readme, threading
called = threading.Semaphore(0)
def tick():
    called.release()
for _ in range({threads}):
    readme.start(tick)
for _ in range(100):
    called.acquire()
print("end", flush=True)
""",
            path=[readme_module],
        ).check()
        assert (result.out, result.err) == ("end\n", "")


def test_C_example_is_short():
    lines = [line for line in example("C").splitlines() if line.strip() and not line.startswith("#include")]
    assert len(lines) <= 30


CPP_MODULE = """
#include <thread>

static PyObject *callable;

// fire(callable): on a thread of its own, and again when Python is gone
static PyObject *fire(PyObject *, PyObject *object)
{
    callable = object;
    Py_INCREF(callable);
    Py_BEGIN_ALLOW_THREADS
    std::thread([] { on_event(callable); }).join();
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static struct Late {
    ~Late() { on_event(callable); }
} late;

static PyMethodDef methods[] = {{"fire", fire, METH_O, nullptr}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "readme_cpp", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit_readme_cpp(void)
{
    if (Pep788_Init() < 0 || !(interpreter = pep788::view::current())) {
        return nullptr;
    }
    return PyModule_Create(&definition);
}
"""


def test_Cpp_example_calls_back_and_refuses():
    module = build_example("readme_cpp.cpp", example(r"C\+\+") + CPP_MODULE, language="c++", std="c++11")
    result = support.run_child("import readme_cpp\nreadme_cpp.fire(lambda: print('called'))", path=[module]).check()
    assert (result.out, result.err) == ("called\n", "")


def test_Python_example_never_leaves_half_a_job(package, tmp_path):
    source, log = tmp_path / "example.py", tmp_path / "log"
    source.write_text(example("Python"))
    result = support.run_child([sys.executable, str(source), str(log)], path=[package]).check()
    assert result.err == ""
    lines = log.read_text().splitlines()
    begun = [line.split()[1] for line in lines if line.startswith("begin")]
    ended = [line.split()[1] for line in lines if line.startswith("end")]
    assert begun == ended and 1 <= len(begun) < 100


@pytest.mark.skipif(sys.version_info < (3, 10), reason="argparse of 3.9 says 'optional arguments'")
def test_help_in_the_README_is_the_real_one(package):
    environment = {"COLUMNS": "80", "NO_COLOR": "1"}
    result = support.run_child([sys.executable, "-m", "pep788", "--help"], path=[package], env=environment).check()
    assert result.out == example("help")


def anchors(page: pathlib.Path) -> set[str]:
    """The names GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(support.REPO)))
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)]+)\)", prose):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


# In parts, so that this file passes its own test: a folder of one machine, and the hosts that packages come from.
MACHINE = re.compile("(?<![.~\\w])/" + r"(?:root|work|home|Users)" + "/")
HOSTS = ("deb", "debian", "ubuntu", "pypi", "pythonhosted", "registry", "artifact", "mirror", "proxy", "index", "local")
REGISTRY = re.compile("https?:/" + r"/[^\s/\"'`)>]*(?:" + "|".join(HOSTS) + r"|\b\d+(?:\.\d+){3})", re.IGNORECASE)


def test_no_file_names_a_machine_or_a_registry():
    """What works on one machine only. Which mirror or index to use is the configuration of whoever runs it."""
    found = []
    for path in support.tracked_files():
        text = (support.REPO / path).read_bytes().decode("utf-8", "replace")
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE.search(line) or REGISTRY.search(line):
                found.append(f"{path}:{number}: {line.strip()[:100]}")
    assert found == []


def test_what_names_a_machine_or_a_registry_is_recognised():
    for host in ("deb.example", "pypi.example", "packages.mirror.example", "10.0.0.1:8080"):
        assert REGISTRY.search("https:/" + f"/{host}/simple"), host
    assert MACHINE.search("see /" + "home/me/log") and MACHINE.search("'/" + "root/.venv'")
    assert not REGISTRY.search("https:/" + "/peps.python.org/pep-0788/")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(support.REPO)))
def test_pages_are_wrapped(page):
    text = page.read_text(encoding="utf-8")
    assert all(len(line) <= 120 or line.startswith(("|", "![")) for line in text.splitlines()), "wrap at 120 columns"


def test_every_target_the_README_names_is_in_the_Makefile():
    targets = re.findall(r"^([\w-]+):", (support.REPO / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:\$ |`)make ([a-z-]+)", README.read_text(encoding="utf-8"))
    assert named and set(named) <= set(targets)


def test_the_table_of_the_shield_is_that_of_its_results():
    argv = [sys.executable, support.REPO / "examples" / "shield" / "prove.py", "--table"]
    table = support.run_child([str(word) for word in argv]).check().out
    assert table.count("\n") > 2
    assert table in (support.REPO / "docs" / "shield.md").read_text(encoding="utf-8"), table


def test_picture_is_well_formed():
    picture = xml.dom.minidom.parse(os.fspath(support.REPO / "docs" / "guard-life.svg"))
    assert picture.documentElement.getAttribute("viewBox") and picture.getElementsByTagName("desc")


def test_environment_variables_of_the_header_are_documented():
    header = (support.INCLUDE / "pep788.h").read_text(encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    read_at_run_time = set(re.findall(r'"(PEP788_[A-Z_]+)"', header))
    assert read_at_run_time
    assert {name for name in read_at_run_time if name not in readme} == set()


def promises_of_ours_only() -> set[str]:
    """The numbers of the contract's lines with a test that native 3.15 does not pass (or a case of one)."""
    numbers = set()
    for path in sorted((support.REPO / "tests").rglob("test_*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        whole = any("ours_only" in ast.unparse(node) for node in module.body if is_pytestmark(node))
        for node in module.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                if whole or any("ours_only" in ast.unparse(mark) for mark in node.decorator_list):
                    numbers.update(re.findall(r"_([GVEFN][0-9]+)(?=_)", node.name))
    return numbers


def is_pytestmark(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [ast.unparse(name) for name in node.targets] == ["pytestmark"]


def test_limits_name_every_promise_that_native_does_not_keep():
    numbers = promises_of_ours_only()
    assert {"F1", "F4", "F8", "F9", "F10", "G6"} <= numbers
    limits = (support.REPO / "docs" / "limits.md").read_text(encoding="utf-8")
    assert sorted(numbers - set(re.findall(r"\b[GVEFN][0-9]+\b", limits))) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(support.REPO)))
def test_numbers_are_those_of_the_contract(page):
    contract = (support.REPO / "docs" / "contract.md").read_text(encoding="utf-8")
    promised = set(re.findall(r"^- ([GVEFN][0-9]+) ", contract, re.MULTILINE))
    assert {"G1", "V1", "E1", "F1", "N1"} <= promised
    assert sorted(set(re.findall(r"\b[GVEFN][0-9]+\b", page.read_text(encoding="utf-8"))) - promised) == []


def test_license_texts_agree():
    from_package = (support.REPO / "src" / "pep788" / "vendor.py").read_text(encoding="utf-8")
    found = re.search(r'ZERO_BSD = """\\\n(.*?)"""', from_package, re.DOTALL)
    assert found is not None
    own = (support.REPO / "LICENSE").read_text(encoding="utf-8")
    assert found.group(1) in own
    words = textwrap.dedent(found.group(1)).split("hereby granted.")[1].split()
    header = (support.INCLUDE / "pep788.h").read_text(encoding="utf-8")
    assert " ".join(words) in " ".join(header.replace("*", " ").split())
