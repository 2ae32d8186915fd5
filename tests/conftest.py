"""Makes `import support` work from every test directory and says which implementation is under test."""

from __future__ import annotations

import os
import pathlib
import platform
import signal
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import support  # noqa: E402

# A hang or crash of a child is a result here; a core file of each would fill the disk.
if os.name == "posix":
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))

# `make test &` in a script ignores Ctrl-C, and a child inherits that: then it has no Ctrl-C to test.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# Tools, which another column of the same version tests: the build and the implementation make no difference to them.
TOOLS = ["check", "migrate", "tools/test_stress.py", "tools/test_stress_programs.py"]
collect_ignore = TOOLS if support.DEBUG_BUILD or support.ALWAYS else []


def pytest_report_header(config: pytest.Config) -> str:
    which = "native" if support.NATIVE else "pep788.h (PEP788_ALWAYS)" if support.ALWAYS else "pep788.h"
    build = ("debug " if support.DEBUG_BUILD else "") + ("free-threaded " if support.FREE_THREADED else "")
    return f"under test: {which} on {build}{platform.python_implementation()} {platform.python_version()}"
