"""P301: by what a binary imports, in each format."""

from __future__ import annotations

import pytest
from binaries import mach_o, pe

FOUND = ["PyGILState_Ensure", "pthread_create"]
NOOP = ["PyGILState_Ensure"]
FORMATS = {"x.cpython-312-darwin.so": mach_o, "x.cp312-win_amd64.pyd": pe}


@pytest.mark.parametrize("name", FORMATS)
def test_found(checker, name):
    report = checker.report({name: FORMATS[name](FOUND)}, notes=True)
    assert [finding.rule for finding in report.findings] == ["P301"]
    assert report.skipped == []


@pytest.mark.parametrize("name", FORMATS)
def test_noop(checker, name):
    report = checker.report({name: FORMATS[name](NOOP)}, select=("P301",), notes=True)
    assert report.findings == report.skipped == []
