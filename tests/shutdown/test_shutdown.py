"""Programs that fall off the end while native threads call Python: RED with the old API, GREEN with ours.

Every scenario is one source, compiled three ways:

old         PyGILState_Ensure/Release. The test asserts that the scenario has teeth: sooner or later a run goes wrong,
            or the programs below would prove nothing. Where that is a matter of luck it is only recorded.
new         PyThreadState_EnsureFromView/Release. Every run must end with status 0 and every native thread must be
            back in its own code (contract E7, E8).
recompiled  the old source with -include pep788.h -DPEP788_REPLACE_GILSTATE (contract F11). No crash, no hang, no
            thread unwound or stopped in the middle of a callback; late callers are parked.

Groups:
A  libraries that are given a function pointer: one that ctypes made, which attaches inside CPython and is out of our
   reach (old API only), and one made by an extension, which is what to do instead
B  extensions that attach by themselves: C loop, C++ RAII below a noexcept frame, timers of libc
C  a C mutex that is held across an attach, and needed by a destructor
D  embedding: Python started and ended again and again under native threads

How a thread fared is counted by the native side in shared memory (src/pep788/demo/programs/ledger.h), because neither
the exit status nor Python can tell: a thread that CPython ends with pthread_exit leaves no trace. What was seen goes
to a file; see record.py.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import importlib
import importlib.util
import pathlib
import platform
import sys
from types import ModuleType
from typing import Callable, Counter, List, Optional, Sequence, Tuple

import pytest
import support

HERE = pathlib.Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
DEMO = support.REPO / "src" / "pep788" / "demo"


def _load_demo_run() -> ModuleType:
    """Import demo/_run.py as part of a package without an __init__, whose extension module need not be built."""
    tree = ModuleType("pep788_tree")
    tree.__path__ = [str(DEMO.parent)]
    sys.modules[tree.__name__] = tree
    return importlib.import_module("pep788_tree.demo._run")


def _load(name: str, path: pathlib.Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


demo_run = _load_demo_run()
record = _load("pep788_shutdown_record", HERE / "record.py")

COLUMNS = {
    "old": (),
    "new": ("DEMO_PEP788",),
    "recompiled": ("PEP788_REPLACE_GILSTATE",),
}
KILLS = sys.version_info < (3, 13, 8)  # gh-87135: pthread_exit; later versions hang the thread
RUNS = {"old": 3, "new": 6, "recompiled": 2, "shielded": 2}
TIMEOUT = 60.0
BATCHES = 20
"""Of RUNS["old"] runs: 60 runs unharmed are no luck."""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """`sources` are built into the module `program` that main.py starts, or into an embedding program."""

    sources: Tuple[pathlib.Path, ...]
    embeds: bool = False
    script: Optional[pathlib.Path] = None
    """Run instead of main.py, with the library that is built; it knows the old API only."""
    runs: Optional[int] = None
    """Fewer than usual where a run is slow."""

    @property
    def language(self) -> str:
        return "c++" if any(source.suffix == ".cpp" for source in self.sources) else "c"


CTYPES = {
    "A ctypes callback, C pool": Scenario(
        (PROGRAMS / "ctypes_library.c", PROGRAMS / "c_library.c"), script=PROGRAMS / "ctypes_main.py"
    ),
    "A ctypes callback, noexcept std::thread pool": Scenario(
        (PROGRAMS / "ctypes_library.c", PROGRAMS / "cxx_library.cpp"), script=PROGRAMS / "ctypes_main.py"
    ),
}
SCENARIOS = {
    "A function pointer, C pool": Scenario((PROGRAMS / "trampoline.c", PROGRAMS / "c_library.c")),
    "A function pointer, noexcept std::thread pool": Scenario((PROGRAMS / "trampoline.c", PROGRAMS / "cxx_library.cpp")),
    "B four pthreads in a loop": Scenario((DEMO / "programs" / "pool.c",)),
    "B RAII below a noexcept frame": Scenario((DEMO / "programs" / "threads.cpp",)),
    "B timers of libc": Scenario((DEMO / "programs" / "timers.c",)),
    "C mutex held across an attach": Scenario((PROGRAMS / "locked.c",), runs=2),
    "D embedding, 20 cycles": Scenario((PROGRAMS / "embedded.c",), embeds=True, runs=2),
}
STATES = {"B thread states made by the library": Scenario((PROGRAMS / "thread_state.cpp",))}  # old API only
LOCKED = "C mutex held across an attach"
EMBEDDED = "D embedding, 20 cycles"
PLAIN = [*CTYPES, *STATES, *(name for name in SCENARIOS if name not in (LOCKED, EMBEDDED))]


@dataclasses.dataclass(frozen=True)
class Seen:
    """How the runs of one scenario, built in one way, ended."""

    outcomes: Counter[str]
    ledgers: List[object]
    complaint: str

    def clean(self) -> bool:
        return set(self.outcomes) == {"ok"}

    def wrong(self, *names: str) -> bool:
        return any(outcome.split(" ")[0] in names for outcome in self.outcomes)


def build(scenario: Scenario, column: str) -> pathlib.Path:
    # Native 3.15 can be starved: threads that come back without a pause keep it from ending at all (contract F9).
    pause = 200 if support.NATIVE and column != "old" else 0
    defines = [*COLUMNS[column], f"PAUSE_US={pause}"]
    extra = [f"-I{DEMO / 'programs'}", f"-I{PROGRAMS}"]
    extra += ["-include", "pep788.h"] if column == "recompiled" else []
    make = support.build_program if scenario.embeds else support.build_extension
    name = "embedded" if scenario.embeds else "library" if scenario.script else "program"
    options = {"defines": defines, "extra": extra, "language": scenario.language}
    return make(name, scenario.sources, ldflags=["-lrt"] if sys.platform.startswith("linux") else [], **options)


def observe(
    name: str, column: str, tmp_path: pathlib.Path, timeout: float = TIMEOUT, shield: Sequence[pathlib.Path] = ()
) -> Seen:
    """Run the scenario again and again, two at a time, and record how it ended.

    `shield`: folders for PYTHONPATH that put the shield up when Python starts.
    """
    scenario = SCENARIOS.get(name) or CTYPES.get(name) or STATES[name]
    target = build(scenario, column)
    count = support.tries(scenario.runs or RUNS["shielded" if shield else column])

    def once(number: int) -> Tuple[str, object, support.Result]:
        ledger = tmp_path / f"ledger-{number}"
        ledger.write_bytes(bytes(demo_run.LEDGER.size))
        argv = [target, "5" if shield else "20"] if scenario.embeds else [sys.executable, "-B", DEMO / "programs" / "main.py"]
        if scenario.script:
            argv[2:] = [scenario.script, *target.glob("library*.so")]
        path = [*shield, *([] if scenario.embeds else [target])]
        env = {"PEP788_DEMO_LEDGER": str(ledger), **({"PEP788_SHIELD": "1"} if shield else {})}
        result = support.run_child(argv, timeout=timeout, env=env, path=path)
        counts = demo_run.Ledger.read(ledger)
        outcome, detail = demo_run.classify(result.returncode, result.hung, counts)
        return f"{outcome} {detail}".strip(), counts, result

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(once, range(count)))
    outcomes = collections.Counter(outcome for outcome, _, _ in results)
    bad = [result.describe(f"{name}, {column}, {counts}") for outcome, counts, result in results if outcome != "ok"]
    build_kind = "native" if support.NATIVE else "always" if support.ALWAYS else ""
    python = " ".join(filter(None, [platform.python_version(), "debug" if support.DEBUG_BUILD else "", build_kind]))
    record.append({"python": python, "scenario": name, "column": "shielded" if shield else column, "outcomes": dict(outcomes)})
    return Seen(outcomes, [counts for _, counts, _ in results], "\n".join(bad[:2]))


# --- RED: the old API -----------------------------------------------------------------------------------------


def observe_until(harmed: Callable[[Seen], bool], name: str, tmp_path: pathlib.Path, timeout: float = TIMEOUT) -> Seen:
    """Observe the old API in batches until one is harmed: by the luck of a few runs it may come through unharmed."""
    for _ in range(BATCHES):
        seen = observe(name, "old", tmp_path, timeout)
        if harmed(seen):
            return seen
    pytest.fail(f"{BATCHES} times the old API came through unharmed: this scenario proves nothing. {dict(seen.outcomes)}")


@pytest.mark.parametrize("name", PLAIN)
def test_old_api_loses_threads_or_the_process(name: str, tmp_path: pathlib.Path) -> None:
    observe_until(lambda seen: not seen.clean(), name, tmp_path)


@pytest.mark.skipif(not KILLS, reason="3.13.8 and later stop the thread instead of unwinding it")
@pytest.mark.parametrize("name", [name for name in PLAIN if "noexcept" in name])
def test_old_api_aborts_in_noexcept_frames(name: str, tmp_path: pathlib.Path) -> None:
    observe_until(lambda seen: seen.wrong("crash"), name, tmp_path)


def test_old_api_hangs_on_a_lock(tmp_path: pathlib.Path) -> None:
    observe_until(lambda seen: seen.wrong("hang", "crash"), LOCKED, tmp_path, timeout=8)


def test_old_api_in_an_embedding_program(tmp_path: pathlib.Path) -> None:
    if sys.version_info >= (3, 15):
        seen = observe(EMBEDDED, "old", tmp_path)  # recorded on every version
        pytest.skip(f"3.15 stops late threads, a quarter of the runs crash: {dict(seen.outcomes)} proves nothing")
    observe_until(lambda seen: not seen.clean(), EMBEDDED, tmp_path)


# --- GREEN: PEP 788 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SCENARIOS))
def test_E7_E8_every_thread_comes_back(name: str, tmp_path: pathlib.Path) -> None:
    seen = observe(name, "new", tmp_path)
    assert seen.clean(), f"{dict(seen.outcomes)}\n{seen.complaint}"


# --- GREEN: the old source, recompiled -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != LOCKED])
def test_F11_recompiling_is_enough(name: str, tmp_path: pathlib.Path) -> None:
    seen = observe(name, "recompiled", tmp_path)
    assert set(seen.outcomes) <= {"ok", "parked"}, f"{dict(seen.outcomes)}\n{seen.complaint}"


def test_F11_a_parked_caller_keeps_its_locks(tmp_path: pathlib.Path) -> None:
    """The limit of F11: who is parked with a mutex in hand blocks the destructor that needs it.

    PyGILState_Ensure cannot say no, so the caller cannot be made to unlock. It is not worse than 3.15, where the old
    API does the same; the cure is the new API (above). What is promised even here: no crash, no thread unwound or
    stopped inside a callback, and nobody waits but for a caller that is parked.
    """
    seen = observe(LOCKED, "recompiled", tmp_path, timeout=8)
    assert set(seen.outcomes) <= {"ok", "parked", "hang"}, f"{dict(seen.outcomes)}\n{seen.complaint}"
    for ledger in seen.ledgers:
        assert (ledger.killed, ledger.frozen) == (0, 0), seen.complaint
    parked = sum(ledger.parked > 0 for ledger in seen.ledgers)
    assert parked == seen.outcomes["hang"] + seen.outcomes["parked"], f"{dict(seen.outcomes)}\n{seen.complaint}"
