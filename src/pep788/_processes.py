"""What `pep788 demo` and `pep788 stress` have in common: they run dozens of processes that may crash or hang."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any


def kill_session(process: subprocess.Popen[Any]) -> None:
    """Kill the session that this process leads and reap it; harmless when it has ended.

    One that has ended by itself but is not reaped yet: the number of the group is still its own.
    """
    if process.returncode is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            pass
        process.wait()


def no_core_files() -> None:
    """Crashes are expected by the dozen; children inherit the limit."""
    import resource  # POSIX only

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
