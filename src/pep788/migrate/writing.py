"""Brings the result into the tree: only where git can bring the old files back, and never over a file that changed."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import subprocess
import tempfile
from typing import Dict, List, Optional

from .model import Report


class NotWritten(Exception):
    """Nothing was written; the message says why and what to do."""


def refuse_dirty(paths: List[str]) -> None:
    """Raise unless git has every byte that is to be changed, and nothing else is changed beside it."""
    for folder in sorted({os.path.dirname(os.path.realpath(path)) for path in paths}):
        changed = _status(folder)
        if changed is None:
            raise NotWritten(f"{folder} is in no git tree, so there would be no way back; --allow-dirty writes anyhow")
        if changed:
            raise NotWritten(
                f"the git tree of {folder} has changes ({changed[0]}{' and more' if len(changed) > 1 else ''}): "
                "commit or stash them, or write anyhow with --allow-dirty"
            )


def _status(folder: str) -> Optional[List[str]]:
    """Changed and untracked files of the tree this folder is in; None if it is in none."""
    if shutil.which("git") is None:
        return None
    words = ["git", "-C", folder, "status", "--porcelain", "-z"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if done.returncode:
        return None
    return [entry[3:] for entry in done.stdout.decode("utf-8", "replace").split("\0") if entry]


def write(report: Report) -> None:
    """Write all changed files, each through a temporary one; a symbolic link stays one."""
    targets: Dict[pathlib.Path, bytes] = {}
    for path, data in report.after.items():
        target = pathlib.Path(os.path.realpath(path))
        try:
            there = target.read_bytes()
        except OSError as error:
            raise NotWritten(f"{path}: {error.strerror or error}; nothing was written") from None
        if there != report.before[path]:
            raise NotWritten(f"{path} has changed while it was looked at; nothing was written, run it again")
        targets[target] = data
    written: Dict[pathlib.Path, str] = {}
    try:
        for target, data in targets.items():
            try:
                _write_beside(target, data, written)
            except OSError as error:
                raise NotWritten(f"{target} cannot be written: {error.strerror or error}; nothing was") from None
        for target in list(written):
            os.replace(written[target], target)
            del written[target]
    finally:
        for name in written.values():
            os.unlink(name)


def _write_beside(target: pathlib.Path, data: bytes, written: Dict[pathlib.Path, str]) -> None:
    """Into a file that `written` names, to be moved to its place."""
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    descriptor, written[target] = tempfile.mkstemp(prefix=target.name + ".", dir=str(target.parent))
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)
    shutil.copymode(str(target), written[target])
