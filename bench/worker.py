"""Measures one interpreter: the one that runs this. Started by `bench.py`, which explains the results.

    python bench/worker.py '{"groups": ["guard"], "repeats": 3, ...}' prepare|measure

`prepare` compiles what `measure` needs. `measure` prints one JSON object a line, as soon as there is something to
say, so that nothing is lost when it is stopped: about (the interpreter), missing (a contender, and why), sample,
failed (a group, and why).  With a number instead it serves the group "views": see `process_with_interpreters`.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import modules

NATIVE_EXISTS = sys.version_info >= (3, 15)
LIBRARIES = ("pybind11", "nanobind", "cffi", "ctypes")

CLOSE = """
import gc, sys
sys.path.insert(0, sys.argv[1])
import bench_close
gc.set_threshold(1_000_000)  # the next collection is the one of finalization
gc.callbacks.append(lambda phase, info, report=bench_close.report: report())
guarded = sys.argv[2] == "guard"
if not guarded:
    import atexit
    atexit.register(bench_close.await_post)
bench_close.start(30, guarded)
"""
# The last statement tells the time; the exit lasts from there to the moment the parent knows that it is over.
WITHOUT = "import os, time; os.write(1, b'%d' % time.monotonic_ns())"
WITH = (
    "import os, time; begin = time.monotonic_ns(); import pep788; end = time.monotonic_ns(); "
    "os.write(1, b'%d %d' % (end - begin, time.monotonic_ns()))"
)


START_SHIELD = """
import time; begin = time.perf_counter()
from pep788 import shield; shield.enable()
print((time.perf_counter() - begin) * 1e6)
"""
# Extension modules of the standard library; those that are built in or not built do not count.
IMPORT_SHIELDED = """
import importlib, importlib.machinery
from pep788 import shield
shield.enable()
before, count = shield.report().seconds, 0
for name in "_ssl _hashlib _sqlite3 _decimal _lzma _bz2 _curses _ctypes _asyncio _json _queue _elementtree".split():
    try:
        module = importlib.import_module(name)
    except ImportError:
        continue
    count += isinstance(module.__spec__.loader, importlib.machinery.ExtensionFileLoader)
print((shield.report().seconds - before) / count * 1e6)
"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the parent asks for; `always`: ours is pep788.h's own implementation also where there is a native one."""

    groups: Sequence[str]
    repeats: int
    always: bool
    build: str
    include: str
    window_ms: float
    gil_window_ms: float  # for two threads that hand the GIL to each other, at intervals of 5 ms
    warm_ms: float
    interpreters: Sequence[int]  # for the group "views"


Sampler = Callable[[], float]

# Libraries and compilers may print to standard output; what they say goes where errors go.
OUTPUT = os.fdopen(os.dup(1), "w")


def say(kind: str, **words: object) -> None:
    print(json.dumps({"kind": kind, **words}), file=OUTPUT, flush=True)


class Bench:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.builder = modules.Builder(Path(settings.build), Path(settings.include))
        self.cpus = processors()
        self.kept_alive: list[Any] = []

    def run(self) -> None:
        groups = {
            "attach": self.attach,
            "nested": self.nested,
            "guard": self.guard,
            "views": self.views,
            "callbacks": self.callbacks,
            "close": self.close,
            "process": self.process,
            "shield": self.shield,
        }
        say("about", **self.about())
        for name in self.settings.groups:
            try:
                groups[name]()
            except (modules.BuildError, RuntimeError, OSError, subprocess.SubprocessError) as error:
                say("failed", group=name, why=str(error))
        say("commands", commands=self.builder.commands)

    def prepare(self) -> None:
        """What does not compile is found missing again, and told, when it is to be measured."""
        groups = set(self.settings.groups)
        steps: list[Callable[[], object]] = []
        if groups & {"attach", "nested", "guard", "views", "callbacks", "shield"}:
            steps += [lambda: self.pairs, lambda: self.native_pairs]
        if "callbacks" in groups:
            steps += [functools.partial(self.library, name, make_tick()) for name in LIBRARIES]
        if "close" in groups:
            kinds = {self.settings.always, False}
            steps += [functools.partial(modules.close, self.builder, always=always) for always in kinds]
        for step in steps:
            with contextlib.suppress(modules.BuildError):
                step()

    # -- the groups: everything in one is measured in the same rounds --

    def attach(self) -> None:
        contenders = {
            **self.kept("attach", "kept", "kept", 1),
            "view": self.ours("view"),
            "gilstate": self.ours("gilstate"),
            **self.native("native", "view"),
            "reattach": self.ours("reattach"),
            "atomic": self.ours("atomic"),
            "empty": self.ours("empty"),
        }
        self.rounds("attach", contenders)

    def nested(self) -> None:
        contenders = {
            "ensure": self.ours("ensure attached"),
            "gilstate": self.ours("gilstate attached"),
            **self.native("native", "ensure attached"),
        }
        self.rounds("nested", contenders)

    def guard(self) -> None:
        contenders = {}
        for threads in self.thread_counts("guard", ("guard", "atomic", "atomic shared")):
            contenders[f"guard {threads}"] = self.ours("guard", threads)
            contenders.update(self.native(f"native {threads}", "guard", threads))
            contenders[f"atomic {threads}"] = self.ours("atomic", threads)
            contenders[f"atomic shared {threads}"] = self.ours("atomic shared", threads)
        self.rounds("guard", contenders)

    def views(self) -> None:
        """Each number of interpreters in a process of its own; they wait while another one is measured."""
        with contextlib.ExitStack() as stack:
            contenders: dict[str, Sampler] = {}
            for count in self.settings.interpreters:
                contenders[str(count)] = stack.enter_context(self.process_with_interpreters(count))
            self.rounds("views", contenders)

    def callbacks(self) -> None:
        """Calls of a trivial Python function per second."""
        tick = make_tick()
        runs: dict[str, Callable[[int], Sampler]] = {
            "view": lambda threads: self.ours("view callback", threads, rate=True),
            "gilstate": lambda threads: self.ours("gilstate callback", threads, rate=True),
        }
        self.pairs.set_callable(tick)
        if self.native_pairs is not None:
            self.native_pairs.set_callable(tick)
        for name in LIBRARIES:
            try:
                runs[name] = self.library(name, tick)
            except (modules.BuildError, ImportError, RuntimeError, OSError) as error:
                for threads in (1, 2):
                    say("missing", group="callbacks", contender=f"{name} {threads}", why=str(error))
        safe: dict[str, Sampler] = {}
        for name in ("cffi", "ctypes"):
            try:
                safe.update(self.one_liners(name, tick))
            except (modules.BuildError, ImportError) as error:
                for kind in ("safe", "safe-kept"):
                    say("missing", group="callbacks", contender=f"{name}-{kind} 1", why=str(error))
        for threads in self.thread_counts("callbacks", (*runs, "kept", "native")):
            contenders = self.kept("callbacks", f"kept {threads}", "kept callback", threads, rate=True)
            contenders.update({f"{name} {threads}": run(threads) for name, run in runs.items()})
            contenders.update(self.native(f"native {threads}", "view callback", threads, rate=True))
            contenders[f"attached {threads}"] = self.ours("attached callback", threads, rate=True)
            if threads == 1:
                contenders.update(safe)
            else:
                del contenders[f"attached {threads}"]  # they never let go: it says how the GIL is shared, no more
            self.rounds("callbacks", contenders)

    def close(self) -> None:
        """Microseconds from the last Close, by a native thread, to the collection that finalization starts with."""
        contenders = {name: self.closing(name, always=self.settings.always) for name in ("ours", "semaphore")}
        if self.settings.always:
            contenders["native"] = self.closing("native", always=False)
        self.rounds("close", contenders)

    def process(self) -> None:
        """Whole processes: import, exit, and all of it, in microseconds."""
        if run_child(["-c", "import pep788"]).returncode:
            say("failed", group="process", why="pep788 is not installed here")
            return
        programs = {"without": WITHOUT, "with": WITH, "json": f"import json; {WITHOUT}"}
        for program in programs.values():
            one_process(program)
        for number in range(4 * self.settings.repeats):
            for name in in_turn(list(programs), number):
                whole, leaving, importing = one_process(programs[name])
                self.sample("process", f"whole {name}", number, whole)
                self.sample("process", f"exit {name}", number, leaving)
                if importing is not None:
                    self.sample("process", "import", number, importing)

    def shield(self) -> None:
        """Nanoseconds that the shield adds to a pair, microseconds that it adds to a start and to an import."""
        try:
            from pep788 import shield
        except ImportError as error:
            raise RuntimeError(f"pep788 is not installed here: {error}") from error

        def pair() -> float:
            """The quickest of short windows: a difference of two that others interrupt says nothing."""
            windows = [self.pairs.run("gilstate attached", 1, 0.2, 1.0, self.cpus) for _ in range(20)]
            return min(float(nanoseconds / sum(counts)) for nanoseconds, counts in windows)

        def added() -> float:
            without = pair()
            shield.enable()
            try:
                return pair() - without
            finally:
                shield.disable()

        def printed(program: str) -> Sampler:
            def sample() -> float:
                done = run_child(["-c", program])
                if done.returncode:
                    raise RuntimeError(f"a process with the shield ended with status {done.returncode}")
                return float(done.stdout)

            return sample

        self.rounds("shield", {"pair": added, "start": printed(START_SHIELD), "import": printed(IMPORT_SHIELDED)})

    # -- how they are run --

    def rounds(self, group: str, contenders: Mapping[str, Sampler]) -> None:
        """A B C, then B C A, ...: a slow moment of the machine meets all, and nobody always comes first."""
        names = list(contenders)
        for name in names:
            contenders[name]()  # warms up what the windows of their own cannot: code, allocator, processes
        for number in range(self.settings.repeats):
            for name in in_turn(names, number):
                self.sample(group, name, number, contenders[name]())

    def sample(self, group: str, contender: str, number: int, value: float) -> None:
        say("sample", group=group, contender=contender, round=number, value=value)

    def ours(self, contender: str, threads: int = 1, *, rate: bool = False) -> Sampler:
        return self.sampler(self.pairs, contender, threads, rate)

    def native(self, name: str, contender: str, threads: int = 1, *, rate: bool = False) -> dict[str, Sampler]:
        """Nothing where there is nothing native beside ours."""
        if self.native_pairs is None:
            return {}
        return {name: self.sampler(self.native_pairs, contender, threads, rate)}

    def kept(self, group: str, name: str, contender: str, threads: int, *, rate: bool = False) -> dict[str, Sampler]:
        if not modules.has_kept(self.builder):
            say("missing", group=group, contender=name, why="this pep788.h has no Pep788_EnsureKept")
            return {}
        return {name: self.ours(contender, threads, rate=rate)}

    def sampler(
        self, module: Any, contender: str, threads: int, rate: bool, before: Optional[Callable[[], object]] = None
    ) -> Sampler:
        """Nanoseconds of one pair, as each thread sees it; or pairs per second of all threads together."""
        holds_gil = threads > 1 and "callback" in contender
        window = self.settings.gil_window_ms if holds_gil else self.settings.window_ms

        def sample() -> float:
            if before is not None:
                before()
            nanoseconds, counts = module.run(contender, threads, self.settings.warm_ms, window, self.cpus)
            total = sum(counts)
            return float(total / nanoseconds * 1e9 if rate else nanoseconds * threads / total)

        return sample

    def library(self, name: str, tick: Callable[[], None]) -> Callable[[int], Sampler]:
        if name in ("pybind11", "nanobind"):
            module = getattr(modules, name)(self.builder)
            module.set_callable(tick)
            return lambda threads: self.sampler(module, "callback", threads, True)
        pointer, address = self.pointer(name, tick)
        return self.through_pointer(pointer, address)

    def pointer(self, name: str, tick: Callable[[], None]) -> tuple[Any, Callable[[Any], int]]:
        """A function pointer of cffi or ctypes, and what tells the address of one."""
        if name == "cffi":
            ffi, function = modules.cffi(self.builder, tick)
            return function, lambda pointer: int(ffi.cast("uintptr_t", pointer))
        return ctypes.CFUNCTYPE(None)(tick), lambda pointer: int.from_bytes(bytes(pointer), sys.byteorder)

    def through_pointer(self, pointer: Any, address: Callable[[Any], int]) -> Callable[[int], Sampler]:
        pairs = self.pairs
        self.kept_alive.append(pointer)
        return lambda threads: self.sampler(
            pairs, "pointer callback", threads, True, lambda: pairs.set_pointer(address(pointer))
        )

    def one_liners(self, name: str, tick: Callable[[], None]) -> dict[str, Sampler]:
        """The same function pointer through `pep788.callback`, on one thread."""
        import pep788

        pointer, address = self.pointer(name, tick)
        safe = pep788.callback(pointer, keep_thread_state=False)
        kept = pep788.callback(pointer, keep_thread_state=True)
        return {
            f"{name}-safe 1": self.through_pointer(safe, address)(1),
            f"{name}-safe-kept 1": self.through_pointer(kept, address)(1),
        }

    def thread_counts(self, group: str, names: Sequence[str]) -> Sequence[int]:
        if len(set(self.cpus)) >= 2 or self.cpus == [-1, -1]:
            return (1, 2)
        for name in names:
            say("missing", group=group, contender=f"{name} 2", why="two threads need two processors, there is one")
        return (1,)

    @property
    def pairs(self) -> Any:
        if not hasattr(self, "_pairs"):
            self._pairs = modules.pairs(self.builder, always=self.settings.always)
        return self._pairs

    @property
    def native_pairs(self) -> Any:
        """The native functions, to compare ours with."""
        if not (self.settings.always and NATIVE_EXISTS):
            return None
        if not hasattr(self, "_native_pairs"):
            self._native_pairs = modules.pairs(self.builder, always=False)
        return self._native_pairs

    @contextlib.contextmanager
    def process_with_interpreters(self, count: int) -> Iterator[Sampler]:
        child = subprocess.Popen(
            [sys.executable, __file__, json.dumps(dataclasses.asdict(self.settings)), str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin is not None and child.stdout is not None
        to, back = child.stdin, child.stdout

        def sample() -> float:
            to.write("go\n")
            to.flush()
            answer = back.readline()
            if not answer:
                raise RuntimeError(f"the process with {count} interpreters ended with status {child.wait()}")
            return float(answer)

        try:
            yield sample
        finally:
            to.close()  # it then ends
            child.wait(60)
            back.close()

    def serve(self, count: int) -> None:
        """The other side: `count` interpreters have lived, counting this one."""
        for _ in range(count - 1):
            self.pairs.live_and_die()
        sample = self.ours("guard")
        for _ in sys.stdin:
            print(sample(), file=OUTPUT, flush=True)

    def closing(self, name: str, *, always: bool) -> Sampler:
        folder = modules.close(self.builder, always=always)
        what = "semaphore" if name == "semaphore" else "guard"

        def sample() -> float:
            done = run_child(["-c", CLOSE, str(folder), what])
            if done.returncode or not done.stdout.strip():
                raise RuntimeError(f"the process that closes a guard ended with status {done.returncode}")
            return int(done.stdout) / 1000

        return sample

    def about(self) -> dict[str, Any]:
        header = (self.builder.include / "pep788.h").read_bytes()
        version = re.search(rb'PEP788_VERSION "([^"]+)"', header)
        names = ("CC", "OPT", "PY_CFLAGS", "CONFIG_ARGS")
        tools = [modules.compiler(False), modules.compiler(True)]
        native = NATIVE_EXISTS and not self.settings.always
        return {
            "python": platform.python_version(),
            "version": sys.version,
            "ours": "the native functions, through pep788.h" if native else "pep788.h",
            "build": {name: str(sysconfig.get_config_var(name)) for name in names},
            "compilers": [first_line([*tool, "--version"]) for tool in tools],
            "libc": " ".join(platform.libc_ver()),
            "libraries": {name: modules.version(name) for name in ("pep788", "pybind11", "nanobind", "cffi")},
            "header": {
                "version": version.group(1).decode() if version else "?",
                "sha256": hashlib.sha256(header).hexdigest(),
                "bytes": len(header),
                "kept": modules.has_kept(self.builder),
            },
            "switch_interval": sys.getswitchinterval(),
            "cpus": self.cpus,
            "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        }


def make_tick() -> Callable[[], None]:
    def tick() -> None:
        pass

    return tick


def in_turn(names: Sequence[str], number: int) -> list[str]:
    at = number % len(names) if names else 0
    return [*names[at:], *names[:at]]


def processors() -> list[int]:
    """Where the first and the second thread run: the last ones, as the first serves most interrupts."""
    if not hasattr(os, "sched_getaffinity"):
        return [-1, -1]
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    return [allowed[0], allowed[min(1, len(allowed) - 1)]]


def run_child(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, timeout=60
    )


def one_process(program: str) -> tuple[float, float, Optional[float]]:
    """Microseconds of the whole, of the exit, and of the import if there is one."""
    begin = time.monotonic_ns()
    with subprocess.Popen(
        [sys.executable, "-I", "-c", program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as child:
        status = child.wait()
        end = time.monotonic_ns()
        assert child.stdout is not None
        said = child.stdout.read().split()
    if status or not said:
        raise RuntimeError(f"a process that only starts and ends had status {status}")
    return (end - begin) / 1000, (end - int(said[-1])) / 1000, int(said[0]) / 1000 if len(said) > 1 else None


def first_line(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        return str(error)
    return (done.stdout.splitlines() or [f"{command[0]}: no answer"])[0]


def main() -> None:
    os.dup2(2, 1)
    bench = Bench(Settings(**json.loads(sys.argv[1])))
    task = sys.argv[2]
    if task == "prepare":
        bench.prepare()
    elif task == "measure":
        bench.run()
    else:
        bench.serve(int(task))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
