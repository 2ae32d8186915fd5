"""The code in the pages of the documentation: all of it is compiled, and run where it can be.

The comment above a block says what is done with it:

- `<!-- test: compile -->`, also `compile, since 3.13`: compiled by itself;
- `<!-- test: run CALL -->`, C and C++: CALL is made by a native thread again and again while the process ends, and once
  more when Python is gone. `run | GLOBALS | SETUP | CALL`: SETUP is an int, negative for an exception; `callable` is
  there. For CALL there are `harness_view`, `harness_callable` and `visit(view)`, which calls it;
- `<!-- test: run -->`, Python: a program that ends with status 0; `<!-- test: output -->` is what it prints;
- `<!-- test: NAME -->`: a test of its own knows it;
- `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import pytest
import support

DOCS = support.REPO / "docs"
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<marker>(?:test|not run): (?:(?!-->).)*) -->\n)?^ *```(?P<language>\w+)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
CODE = ("c", "cpp", "cython", "python")
FLAGS = ("-Wno-unused", "-fvisibility=hidden")

HARNESS = r"""
#include <pthread.h>
#include <time.h>
#include <unistd.h>

static PyInterpreterView *harness_view;
static PyObject *harness_callable;

static inline void visit(PyInterpreterView *view)
{
    PyThreadStateToken *token = PyThreadState_EnsureFromView(view);
    if (token != NULL) {
        Py_XDECREF(PyObject_CallObject(harness_callable, NULL));
        PyThreadState_Release(token);
    }
}

@GLOBALS@

static void harness_call(void)
{
    @CALL@;
}

static void *harness_loop(void *unused)
{
    const struct timespec millisecond = {0, 1000000};
    for (;;) {
        harness_call();
        nanosleep(&millisecond, NULL);
    }
    return unused;
}

static PyObject *harness_start(PyObject *module, PyObject *callable)
{
    pthread_t thread;
    Py_INCREF(callable);
    harness_callable = callable;
    harness_view = PyInterpreterView_FromCurrent();
    if (harness_view == NULL || (@SETUP@) < 0 || pthread_create(&thread, NULL, harness_loop, NULL) != 0)
        return NULL;
    pthread_detach(thread);
    Py_RETURN_NONE;
}

__attribute__((destructor)) static void harness_late(void)
{
    if (harness_view != NULL) {
        harness_call();
        if (write(1, "late\n", 5) != 5)
            _exit(3);
    }
}

static PyMethodDef harness_methods[] = {{"start", harness_start, METH_O, NULL}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef harness_module = {PyModuleDef_HEAD_INIT, "sample", NULL, -1, harness_methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_sample(void)
{
    return Pep788_Init() < 0 ? NULL : PyModule_Create(&harness_module);
}
"""

PROGRAM = """
import sample, threading
called = threading.Semaphore(0)
def handler(*arguments):
    called.release()
sample.start(handler)
for _ in range(20):
    called.acquire()
print("end", flush=True)
"""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A block of code of a page."""

    page: pathlib.Path
    line: int
    language: str
    marker: str
    text: str

    @property
    def kind(self) -> str:
        return re.split(r"[\s,]", self.marker.partition(": ")[2])[0] if self.marker.startswith("test") else ""

    @property
    def label(self) -> str:
        return self.marker.partition(": ")[2]

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def samples(page: pathlib.Path) -> list[Sample]:
    text = page.read_text(encoding="utf-8")
    return [
        Sample(
            page,
            text.count("\n", 0, found.start("text")),
            found["language"],
            found["marker"] or "",
            textwrap.dedent(found["text"]),
        )
        for found in BLOCK.finditer(text)
    ]


ALL = [sample for page in sorted(DOCS.glob("*.md")) for sample in samples(page)]
COMPILED = [sample for sample in ALL if sample.kind == "compile"]
RUN = [sample for sample in ALL if sample.kind == "run" and sample.language != "python"]
PROGRAMS = [sample for sample in ALL if sample.kind == "run" and sample.language == "python"]


def labelled(page: str, label: str) -> str:
    (found,) = [sample.text for sample in ALL if sample.page.name == page and sample.label == label]
    return found


def before(sample: Sample) -> str:
    """What the page says that a sample builds on."""
    header, label = ("pep788.hpp", "source in C++") if sample.language == "cpp" else ("pep788.h", "source")
    shared = labelled("migration.md", label) if sample.page.name == "migration.md" else ""
    return f'#include "{header}"\n#include <pthread.h>\n{shared}\n'


def harness_parts(sample: Sample) -> tuple[str, str, str]:
    """Globals, set-up and call, as the marker says; the pages on migration share a source."""
    parts = [part.strip() for part in sample.label[len("run") :].split("|")]
    if len(parts) == 4:
        return parts[1], parts[2], parts[3]
    (call,) = parts
    if sample.page.name != "migration.md":
        return "", "0", call
    if sample.language == "cpp":
        open_it = "(source = new Source{callable, pep788::view::current()})->view ? 0 : -1"
        return "static Source *source;", open_it, call
    return "static Source one, *source = &one;", "open_source(source, callable)", call


def compile_cython(sample: Sample, folder: pathlib.Path) -> None:
    pytest.importorskip("Cython")
    (folder / "pep788").mkdir()  # not the package, which may not be installed
    shutil.copy(support.REPO / "src" / "pep788" / "__init__.pxd", folder / "pep788")
    source = folder / "sample.pyx"
    source.write_text(
        "# cython: language_level=3\nfrom pep788 cimport *\n"
        "cdef PyInterpreterView *view = PyInterpreterView_FromCurrent()\n" + sample.text
    )
    words = [sys.executable, "-m", "cython", "-I", str(folder), str(source), "-o", str(folder / "sample.c")]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0 and "warning" not in done.stdout, done.stdout


def language(sample: Sample) -> dict[str, str]:
    return {"language": "c++", "std": "c++11"} if sample.language == "cpp" else {"language": "c"}


def test_every_block_of_code_is_tested_or_says_why_not() -> None:
    silent = [f"{sample}: {sample.language}" for sample in ALL if sample.language in CODE and not sample.marker]
    assert silent == []
    assert len(COMPILED) >= 10 and len(RUN) >= 10 and len(PROGRAMS) >= 1


@pytest.mark.parametrize("sample", COMPILED, ids=str)
def test_sample_compiles(sample: Sample, tmp_path: pathlib.Path) -> None:
    if sample.language == "cython":
        compile_cython(sample, tmp_path)
        return
    since = re.search(r"since (\d+)\.(\d+)", sample.marker)
    if since and sys.version_info < (int(since[1]), int(since[2])):
        pytest.skip(f"needs Python {since[1]}.{since[2]}")
    words = [*support.compile_command(**language(sample)), *FLAGS, "-fsyntax-only", "-x", language(sample)["language"], "-"]
    done = subprocess.run(words, input=before(sample) + sample.text, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("sample", RUN, ids=str)
def test_sample_calls_back_and_ends(sample: Sample) -> None:
    variables, set_up, call = harness_parts(sample)
    harness = HARNESS.replace("@GLOBALS@", variables).replace("@SETUP@", set_up or "0").replace("@CALL@", call)
    file = support.BUILD / "samples" / f"{sample.page.stem}-{sample.line}.{sample.language}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(before(sample) + sample.text + harness)
    module = support.build_extension("sample", [file], extra=["-O0", "-g0", *FLAGS], **language(sample))
    result = support.run_child(PROGRAM, path=[module]).check()
    assert (result.out, result.err) == ("end\nlate\n", "")


@pytest.mark.parametrize("sample", PROGRAMS, ids=str)
def test_program_runs(sample: Sample, package: pathlib.Path) -> None:
    outputs = [other.text for other in samples(sample.page) if other.label == "output" and other.line > sample.line]
    result = support.run_child(sample.text, path=[package]).check()
    assert result.out == outputs[0]


# --- the tutorial ---------------------------------------------------------------------------------------------


def build_tutorial(folder: pathlib.Path, package: pathlib.Path, source: str) -> None:
    """As the page says: three files, and one command."""
    (folder / "ticker.c").write_text(source)
    for name in ("setup.py", "use.py"):
        (folder / name).write_text(labelled("tutorial.md", name))
    command = f"import os; os.chdir({str(folder)!r}); import sys; sys.argv = ['setup.py', '-q', 'build_ext', '--inplace']; "
    support.run_child(command + "exec(open('setup.py').read())", path=[package]).check()


def test_tutorial_calls_back_and_ends(tmp_path: pathlib.Path, package: pathlib.Path) -> None:
    pytest.importorskip("setuptools")
    build_tutorial(tmp_path, package, labelled("tutorial.md", "ticker.c"))
    for _ in range(support.tries(5)):
        result = support.run_child([sys.executable, str(tmp_path / "use.py")]).check()
        assert (result.out, result.err) == ("called 100 times\n", "")


def test_old_loop_of_the_tutorial_compiles(tmp_path: pathlib.Path, package: pathlib.Path) -> None:
    pytest.importorskip("setuptools")
    source, old = labelled("tutorial.md", "ticker.c"), labelled("tutorial.md", "the old loop")
    changed, count = re.subn(r"^    for \(;;\) \{\n.*?^    \}\n", lambda _: old, source, flags=re.DOTALL | re.MULTILINE)
    assert count == 1 and changed != source
    build_tutorial(tmp_path, package, changed)
