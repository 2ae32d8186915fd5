"""pytest plugin: a test whose end is what matters is run to its end in fresh processes, many times.

It is loaded with pep788 and does nothing unless a test asks for it::

    @pytest.mark.pep788_stress(runs=50)
    def test_exit():              # run in processes of its own, each of which then ends
        start_threads()

    def test_exit_of_code(pep788_stress):
        pep788_stress("import mymodule; mymodule.start_threads()", runs=50)

Both fail with the report of ``pep788 stress``.  Options of both: ``runs``, ``timeout`` (seconds from the begin of
finalization), ``amplify``, ``status``, ``seed``.  Works under xdist.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import pytest

MARKER = "pep788_stress"
DEFAULT_RUNS = 20
LOADS = """\
import importlib.util, sys
sys.path[:] = {path!r}
spec = importlib.util.spec_from_file_location({module!r}, {file!r})
module = sys.modules[{module!r}] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.{function}()
"""


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, for --strict-markers and --markers."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(runs={DEFAULT_RUNS}, timeout=10.0, amplify=True, status=0, seed=None): run the test function in "
        "fresh processes, each to its end, and fail if one of them crashes, hangs or loses native threads there",
    )


@pytest.fixture
def pep788_stress() -> Callable[..., None]:
    """Run Python code in fresh processes, each to its end; fails with a report if one does not end well."""

    def run(code: str, **options: Any) -> None:
        __tracebackhide__ = True
        _run([sys.executable, "-c", code], options)

    return run


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """A marked test function is called in child processes instead of here."""
    marker = pyfuncitem.get_closest_marker(MARKER)
    if marker is None:
        return None
    function = pyfuncitem.obj
    where = f"@pytest.mark.{MARKER} on {pyfuncitem.nodeid}"
    if marker.args:
        pytest.fail(f"{where}: give its options by name, such as runs=50", pytrace=False)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        pytest.fail(f"{where}: it is async, and would not be awaited; call asyncio.run() in it instead", pytrace=False)
    if "." in function.__qualname__ or inspect.signature(function).parameters:
        pytest.fail(
            f"{where}: only for functions of a module, without arguments: it is imported and called in another "
            f"process. For anything else use the fixture {MARKER} with a string of code.",
            pytrace=False,
        )
    code = LOADS.format(
        path=sys.path, module=function.__module__, file=str(pyfuncitem.path), function=function.__qualname__
    )
    _run([sys.executable, "-c", code], marker.kwargs, pyfuncitem.name)
    return True


def _run(command: Sequence[str], options: Mapping[str, Any], label: str = "") -> None:
    __tracebackhide__ = True
    from . import run
    from ._report import as_text

    problem = ""
    try:
        report = run(command, **{"runs": DEFAULT_RUNS, "label": label, **options})
        problem = as_text(report) if report.failed else ""
    except (TypeError, ValueError) as error:  # an option that run() does not have, or a number that makes no sense
        problem = f"{MARKER}: {error}"
    if problem:
        pytest.fail(problem, pytrace=False)
