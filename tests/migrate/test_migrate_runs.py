"""What was migrated compiles, and a call that comes too late gets its failure value; before, it ends the process."""

from __future__ import annotations

import pathlib
import sys

import pytest
import support

LATE = pathlib.Path(__file__).with_name("late.c")
STORED = pathlib.Path(__file__).with_name("stored.c")

needs_posix = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="unnamed POSIX semaphores")


def run(folder: pathlib.Path, patience_s: int, module: str = "late") -> support.Result:
    return support.run_child(f"import {module}; {module}.start(int, {patience_s})", path=[folder])


RESULT = "first: 0\nlate: -2\nfinished\n"


def migrated(migrator, path: pathlib.Path, **options):
    report = migrator.report({path.name: path.read_bytes()}, values=("call_back=-2",), **options)
    assert [site.outcome.value for site in report.sites] == ["migrated"]
    source = support.BUILD / "migrated" / path.name  # builds are cached by path and content
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_bytes(*report.after.values())
    return source, report


@needs_posix
def test_before():
    result = run(support.build_extension("late", [LATE]), 1)
    assert "finished" not in result.out


@needs_posix
@pytest.mark.parametrize("options", [{}, {"oldest": (3, 15)}], ids=["header", "native"])
def test_after(migrator, options):
    if options and not support.NATIVE:
        pytest.skip("the native API is of 3.15")
    source, _ = migrated(migrator, LATE, **options)
    result = run(support.build_extension("late", [source]), 60).check()
    assert result.out == RESULT


@needs_posix
def test_after_with_a_view_in_the_user_data(migrator):
    source, report = migrated(migrator, STORED)
    assert [view.expression for view in report.views] == ["Source.view"]
    result = run(support.build_extension("stored", [source]), 60, "stored").check()
    assert result.out == RESULT
