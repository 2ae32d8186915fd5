"""The checker of the tree under a name of its own, so that the extension module around it need not be built."""

from __future__ import annotations

import importlib.util
import re
import sys
import textwrap
from typing import List, Tuple

import pytest
import support

CHECK = support.REPO / "src" / "pep788" / "check"
NAME = "pep788_check"

spec = importlib.util.spec_from_file_location(NAME, CHECK / "__init__.py", submodule_search_locations=[str(CHECK)])
assert spec is not None and spec.loader is not None
module = importlib.util.module_from_spec(spec)
sys.modules[NAME] = module
spec.loader.exec_module(module)

from pep788_check import cli  # noqa: E402

MISSING = cli.missing_module()


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    for item in items:
        if MISSING and "checker" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=MISSING))


WANT = re.compile(r"want: (P\d+)")


class Checker:
    """Checks sources that say in comments what is to be found on their lines: `/* want: P101 */`."""

    def __init__(self, folder) -> None:
        self.folder = folder

    def report(self, files: "dict[str, str | bytes]", **options):
        from pep788_check import engine

        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        return engine.check(engine.Options(paths=(str(self.folder),), **options))

    def __call__(self, rule: str, text: str, name: str = "x.c", **more: str) -> None:
        files = {name: text, **{key.replace("__", "."): value for key, value in more.items()}}
        report = self.report(files, select=("P",) if rule == "P" else (rule,))
        assert [skip for skip in report.skipped] == []
        assert self.found(report) == wanted(files)

    def found(self, report) -> List[Tuple[str, int, str]]:
        return sorted((f.span.path[len(str(self.folder)) + 1 :], f.span.line, f.rule) for f in report.findings)


def wanted(files: "dict[str, str | bytes]") -> List[Tuple[str, int, str]]:
    found = []
    for name, text in files.items():
        for number, line in enumerate(textwrap.dedent(text if isinstance(text, str) else "").split("\n"), 1):
            found += [(name, number, rule) for rule in WANT.findall(line)]
    return sorted(found)


@pytest.fixture
def checker(tmp_path) -> Checker:
    return Checker(tmp_path)
