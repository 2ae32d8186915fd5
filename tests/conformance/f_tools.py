"""What the F and N tests share: the probe module and children that use it."""

from __future__ import annotations

import os
import pathlib
import textwrap
from typing import Iterable, Mapping, Optional, Sequence

import support

HERE = pathlib.Path(__file__).resolve().parent

TIMEOUT = float(os.environ.get("PEP788_TEST_TIMEOUT") or 60)

OK, NOT_INITIALIZED, FINALIZING, GONE, NO_MEMORY = range(5)


def probe(name: str = "f_probe", *, defines: Sequence[str] = (), **options) -> pathlib.Path:
    """Build f_probe.c as module `name`; returns the directory for `sys.path`."""
    return support.build_extension(name, [HERE / "f_probe.c"], defines=[f"MODULE={name}", *defines], **options)


def child(
    code: str,
    *,
    path: Optional[Iterable[pathlib.Path]] = None,
    env: Optional[Mapping[str, Optional[str]]] = None,
    timeout: Optional[float] = None,
    args: Sequence[str] = (),
) -> support.Result:
    """Run `code` with the probe importable as `f_probe`."""
    return support.run_child(
        textwrap.dedent(code),
        path=[probe()] if path is None else path,
        env=env,
        timeout=timeout or TIMEOUT,
        args=args,
    )


def events(result: support.Result) -> list:
    """The lines a child wrote, for comparing with the order the contract gives."""
    return [line for line in result.out.splitlines() if line]
