"""The programs of the demo: one row of the table each."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pathlib
import sys
import sysconfig
from typing import Callable

from ._build import HERE, PROGRAMS, Column, build_module, build_preload
from ._run import Job

ASOUNDRC = "pcm.!default {\n    type null\n}\nctl.!default {\n    type null\n}\n"

# The folders that examples/pyaudio/build.py makes, by column.
PORTS = {"old": "before", "new": "after", "always": "after-always", "recompiled": "recompiled"}


class Unavailable(Exception):
    """This cell cannot be run here: a short reason for the table, and the remedy below it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason, self.remedy = reason, remedy


@dataclasses.dataclass(frozen=True)
class Program:
    """`prepare` builds what a column needs in a folder of its own, and says how to start it."""

    key: str
    title: str
    prepare: Callable[[Column, pathlib.Path], Job]


def _from_source(source: str, missing: str = "") -> Callable[[Column, pathlib.Path], Job]:
    def prepare(column: Column, target: pathlib.Path) -> Job:
        if missing:
            raise Unavailable("not on this system", missing)
        problem = build_module(source, column, target)
        if problem is not None:
            raise Unavailable("does not compile", problem)
        return Job(PROGRAMS / "main.py", [target], {})

    return prepare


def _pyaudio(column: Column, target: pathlib.Path) -> Job:
    if not sys.platform.startswith("linux"):
        raise Unavailable(
            "not run here",
            "needs LD_PRELOAD and ALSA's null device: Linux only",
        )
    site = _pyaudio_site(column)
    problem = build_preload("portaudio_watch.c", target)
    if problem is not None:
        raise Unavailable("does not compile", problem)
    (target / "asoundrc").write_text(ASOUNDRC)
    env = {
        "ALSA_CONFIG_PATH": str(target / "asoundrc"),
        "JACK_NO_START_SERVER": "1",
        "LD_PRELOAD": os.pathsep.join(filter(None, [str(target / "preload.so"), os.environ.get("LD_PRELOAD")])),
    }
    return Job(PROGRAMS / "play.py", [site] if site else [], env)


def _pyaudio_site(column: Column) -> pathlib.Path | None:
    """Where this column's PyAudio is; None is the one that is installed."""
    built = _built_pyaudio() / PORTS[column.key]
    if (built / "pyaudio").is_dir():
        return built
    if column.key != "old":
        raise Unavailable(
            "not built",
            "the ported PyAudio comes from a checkout of pep788: python examples/pyaudio/build.py "
            "[--always] [--recompiled]; or PEP788_DEMO_PYAUDIO names the folder that it fills",
        )
    if importlib.util.find_spec("pyaudio") is None:
        raise Unavailable("not installed", "pip install PyAudio (needs portaudio19-dev or portaudio-devel)")
    return None


def _built_pyaudio() -> pathlib.Path:
    given = os.environ.get("PEP788_DEMO_PYAUDIO")
    if given:
        return pathlib.Path(given).resolve()
    version = "{}.{}.{}".format(*sys.version_info[:3])
    soabi = sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag
    checkout = HERE.parents[2]
    return checkout / "build" / "pyaudio" / f"{version}-{soabi}"


_NO_TIMERS = "this libc has no timer_create" if sys.platform == "darwin" else ""

ALL = (
    Program("timers", "POSIX timers", _from_source("timers.c", _NO_TIMERS)),
    Program("pool", "C pthread pool", _from_source("pool.c")),
    Program("threads", "C++ std::thread, noexcept", _from_source("threads.cpp")),
    Program("pyaudio", "PortAudio (PyAudio)", _pyaudio),
)
