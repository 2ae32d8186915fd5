"""P302: by what a binary imports, in each format."""

from __future__ import annotations

import pytest
from binaries import mach_o, pe

FOUND = ["PyGILState_Ensure"]
NOOP = ["PyGILState_Check", "PyEval_RestoreThread", "pthread_create"]
FORMATS = {"x.cpython-312-darwin.so": mach_o, "x.cp312-win_amd64.pyd": pe}


@pytest.mark.parametrize("name", FORMATS)
def test_found(checker, name):
    report = checker.report({name: FORMATS[name](FOUND)}, notes=True)
    assert [finding.rule for finding in report.findings] == ["P302"]
    assert report.skipped == []


@pytest.mark.parametrize("name", FORMATS)
def test_noop(checker, name):
    report = checker.report({name: FORMATS[name](NOOP)}, select=("P302",), notes=True)
    assert report.findings == report.skipped == []
