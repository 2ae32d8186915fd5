"""P304: by what a binary imports, in each format."""

from __future__ import annotations

import pytest
from binaries import mach_o, pe

FOUND = ["PyEval_SaveThread", "PyEval_RestoreThread"]
NOOP = ["PyEval_SaveThread", "PyGILState_Ensure"]
FORMATS = {"x.cpython-312-darwin.so": mach_o, "x.cp312-win_amd64.pyd": pe}


@pytest.mark.parametrize("name", FORMATS)
def test_found(checker, name):
    report = checker.report({name: FORMATS[name](FOUND)}, notes=True)
    assert [finding.rule for finding in report.findings] == ["P304"]
    assert report.skipped == []


@pytest.mark.parametrize("name", FORMATS)
def test_noop(checker, name):
    report = checker.report({name: FORMATS[name](NOOP)}, select=("P304",), notes=True)
    assert report.findings == report.skipped == []


@pytest.mark.parametrize(
    "name, words",
    [
        ("x.cpython-312-darwin.so", "On 3.12 a daemon thread that comes back too late is ended inside its own frames"),
        ("x.cpython-313-darwin.so", "up to 3.13.7, frozen for ever from 3.13.8 on"),
        ("x.cpython-315-darwin.so", "On 3.15 a daemon thread that comes back too late is frozen for ever"),
    ],
)
def test_the_version_it_is_built_for(checker, name, words):
    (finding,) = checker.report({name: mach_o(FOUND)}, notes=True).findings
    assert words in finding.message
