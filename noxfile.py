"""For people who like nox: the same suites on the interpreters that nox finds.

`make test-all` needs no nox, makes the missing interpreters itself, and is what counts: it alone covers 3.13.0 (nox
knows one 3.13 only) and the debug builds of 3.14 and 3.15.
"""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests"]
nox.options.error_on_missing_interpreters = True
PYTHONS = ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]


@nox.session(python=[*PYTHONS, "3.13t", "3.14t"])
def tests(session: nox.Session) -> None:
    """The tests on one interpreter."""
    session.install(".[test]")
    build = session.create_tmp()
    session.run("pytest", "tests", *session.posargs, env={"PEP788_TEST_BUILD": f"{build}/tests"})


@nox.session(python="3.15")
def always(session: nox.Session) -> None:
    """The tests of our implementation where a native one exists."""
    session.install(".[test]")
    env = {"PEP788_TEST_BUILD": f"{session.create_tmp()}/tests", "PEP788_TEST_ALWAYS": "1"}
    session.run("pytest", "tests", *session.posargs, env=env)


@nox.session(python=PYTHONS)
def stress(session: nox.Session) -> None:
    """Initialize and finalize under fire on one interpreter."""
    session.install(".[test]")
    session.run("python", "tests/stress/run.py", *session.posargs)


@nox.session(python=PYTHONS)
def bench(session: nox.Session) -> None:
    """What it costs, on one interpreter."""
    session.install(".[bench]")
    session.run("python", "bench/bench.py", "--interpreters", "here", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and types."""
    session.install(".[dev]")
    session.run("ruff", "check", ".")
    session.run("mypy")
    session.run("pytest", "-q", "tests/tools/test_package.py::test_typing")
