"""Binaries: a real one of this system, and what is said for which version."""

from __future__ import annotations

import sys
import sysconfig

import pytest
import support
from binaries import mach_o, pe, universal

SOURCE = """
#include <Python.h>
#include <pthread.h>
static void *run(void *state)
{
    PyGILState_Release(PyGILState_Ensure());
    return state;
}
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "check_elf", NULL, -1, NULL, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit_check_elf(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, NULL) == 0)
        pthread_detach(thread);
    return PyModule_Create(&definition);
}
"""


@pytest.mark.skipif(sys.platform != "linux", reason="builds an ELF file")
def test_an_extension_built_here(checker):
    source = support.BUILD / "check" / "check_elf.c"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(SOURCE)
    folder = support.build_extension("check_elf", [source])
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    data = (folder / f"check_elf{suffix}").read_bytes()
    report = checker.report({f"check_elf{suffix}": data})
    assert [finding.rule for finding in report.findings] == ["P301"]
    assert report.findings[0].data["python"] == "{}.{}".format(*sys.version_info)


@pytest.mark.parametrize(
    "name, python, words",
    [
        ("x.cpython-312-darwin.so", "3.12", "ended inside its own frames"),
        ("x.cpython-314-darwin.so", "3.14", "let in while Python is torn down"),
        ("x.cpython-315-darwin.so", "3.15", "frozen for ever"),
        ("p-1-cp310-abi3-macosx_11_0_arm64/x.abi3.so", "3.10+", "frozen from 3.13.8 on, on 3.14 let in"),
        ("x.abi3.so", "", "frozen from 3.13.8 on, on 3.14 let in"),
    ],
)
def test_the_version_it_is_built_for(checker, name, python, words):
    report = checker.report({name: mach_o(["PyGILState_Ensure", "pthread_create"])})
    (finding,) = report.findings
    assert finding.data["python"] == python
    assert words in finding.message


def test_notes_are_counted_and_hidden(checker):
    report = checker.report({"x.pyd": pe(["PyGILState_Ensure"])})
    assert (report.findings, report.hidden_notes) == ([], 1)


def test_what_is_built_with_our_header_is_not_reported(checker):
    data = mach_o(["PyGILState_Ensure", "pthread_create"]) + b"pep788.coordinator.1\0"
    assert checker.report({"x.so": data}, notes=True).findings == []


def test_every_architecture_of_a_universal_binary_is_looked_at(checker):
    both = universal(mach_o(["PyGILState_Ensure"]), mach_o(["pthread_create"]))
    report = checker.report({"x.cpython-312-darwin.so": both})
    assert [finding.rule for finding in report.findings] == ["P301"]


@pytest.mark.parametrize("start", ["_ZNSt6thread15_M_start_threadESt10shared_ptrINS_10_Impl_baseEE", "dispatch_async", "QueueUserWorkItem"])
def test_other_ways_to_start_a_thread(checker, start):
    report = checker.report({"x.dylib": mach_o(["PyGILState_Ensure", start])})
    assert [finding.rule for finding in report.findings] == ["P301"]


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", b"INPUT(-lfoo)", pe(["x"])[:500]])
def test_damaged_binaries_are_named(checker, data):
    report = checker.report({"x.so": data})
    assert report.findings == []
    assert [skip.kind for skip in report.skipped] == ["unreadable"]
