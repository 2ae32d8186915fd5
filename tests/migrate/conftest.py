"""The migrator of the tree under a name of its own, so that the extension module around it need not be built."""

from __future__ import annotations

import importlib
import sys
import textwrap
import types
from typing import Any, Dict, List, Tuple

import pytest
import support

NAME = "pep788_tools"
package = types.ModuleType(NAME)
package.__path__ = [str(support.REPO / "src" / "pep788")]  # type: ignore[attr-defined]
sys.modules[NAME] = package

MISSING = importlib.import_module(f"{NAME}.check.cli").missing_module()

INIT = """
#include <Python.h>

PyMODINIT_FUNC PyInit_x(void)
{
    return PyModule_Create(&definition);
}
"""


def tool(name: str) -> Any:
    return importlib.import_module(f"{NAME}.migrate.{name}")


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    for item in items:
        if MISSING and "migrator" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason=MISSING))


class Migrator:
    """Migrates sources in a folder; nothing is written unless asked for."""

    def __init__(self, folder) -> None:
        self.folder = folder

    def write(self, files: "Dict[str, str | bytes]") -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())

    def report(self, files: "Dict[str, str | bytes]", toml: str = "", values: Tuple[str, ...] = (), **options):
        self.write(files)
        decisions = None
        if toml:
            decisions = self.folder / "decisions.toml"
            decisions.write_text(textwrap.dedent(toml))
        known = tool("decisions").load(decisions, values)
        return tool("engine").migrate(tool("engine").Options(paths=(str(self.folder),), **options), known)

    def one(self, text: "str | bytes", name: str = "x.c", values: Tuple[str, ...] = (), toml: str = ""):
        """The only site, and the function's file with a view that is there: no include or set-up is added."""
        header = "#include <Python.h>\n#include <pep788.h>\n"
        body = text if isinstance(text, bytes) else textwrap.dedent(text).encode()
        report = self.report({name: header.encode() + body}, 'view = "view"\n' + textwrap.dedent(toml), values)
        (site,) = report.sites
        after = report.after.get(f"{self.folder.as_posix()}/{name}")
        return site, None if after is None else after[len(header) :]

    def becomes(self, before: str, after: str, **options: Any):
        site, found = self.one(before, **options)
        assert (site.outcome.value, site.reason) == ("migrated", "")
        assert found is not None and found.decode() == textwrap.dedent(after)
        return site

    def skips(self, text: str, reason: str, **options: Any) -> None:
        self._stays("skipped", text, reason, **options)

    def asks(self, text: str, question: str, **options: Any) -> None:
        self._stays("needs a decision", text, question, **options)

    def _stays(self, outcome: str, text: str, reason: str, **options: Any) -> None:
        site, found = self.one(text, **options)
        assert (site.outcome.value, found) == (outcome, None)
        assert reason in site.reason


@pytest.fixture
def migrator(tmp_path) -> Migrator:
    return Migrator(tmp_path)
