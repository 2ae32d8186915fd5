"""What the tools that run other programs have in common; `demo` and `stress` run dozens that may crash or hang."""

from __future__ import annotations

import errno
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


def why_not_run(command: str, error: OSError | None = None) -> str:
    """What is wrong with the first word of a command that could not be started, and what to do."""
    if os.path.isdir(command):
        return f"{command} is a folder; name a program"
    if os.path.exists(command) and not os.access(command, os.X_OK):
        return f"{command} is not executable; put its interpreter in front, such as python, or chmod +x it"
    if error is not None and error.errno == errno.ENOEXEC:
        return f"{command} is no program; put its interpreter in front, such as python"
    if os.path.exists(command) and error is not None and error.errno == errno.ENOENT:
        return f"{command} needs an interpreter that is not there; look at its first line"
    if error is not None and error.errno != errno.ENOENT:
        return f"{command} cannot be run: {error.strerror or error}"
    return f"{command}: no such command; check the name, or give its path"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
