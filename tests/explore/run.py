"""Explore every interleaving of the guard and close state machine of pep788.h, and prove that a bug in it is found.

`make explore` runs this. Three steps: all scenarios of explorer.c, under sequential consistency and with store buffers;
mutants, copies of the header with one deliberate bug each, every one of which must be found; a litmus test of the
store-buffering pair on real threads. Exit status 0: nothing found and every mutant found; 1: otherwise.

    run.py                       everything
    run.py --scenarios close fork   only these scenarios, no mutants, no litmus
    run.py --header other/pep788.h  another header
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Callable, List, Optional, Sequence, Tuple

from header import HEADER, Missing, copy_functions, find_function

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parent.parent
BUILD = REPO / "build"
COMPILER = os.environ.get("CC", "cc").split()

# Outside sections 2-4, yet part of the machine: copied out of the header word by word, with Python stubbed.
FUNCTIONS = (
    "pep788_inside pep788_sleep pep788_wait_and_close pep788_revive pep788_seam "
    "pep788_unlink pep788_link_to_main pep788_before_fork pep788_in_child "
    "pep788_link_kept pep788_unlink_kept_locked pep788_drop_kept pep788_drop_all_kept pep788_kept_in_child"
).split()

MODELS = {"sc": "sequential consistency", "tso": "store buffers (x86-TSO)"}
# Cells in a row; and the threads on them.
SHARDS = {1: "all threads on one cell", 2: "two threads on one cell, the third on its own"}
LIMIT = 900


class Failed(Exception):
    """A step that could not be done; the text says which and why."""


# --- mutants --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A deliberate bug: `old` becomes `new`, once, in one function; the scenarios in which it must be found."""

    name: str
    function: str
    old: str
    new: str
    scenarios: str
    model: str = "sc"
    shards: int = 1

    def apply(self, header: str) -> str:
        start, end = find_function(header, self.function)
        body = header[start:end]
        changed, count = re.subn(self.old, self.new, body, flags=re.S)
        if count != 1 or changed == body:
            raise Missing(f"its text is {count} times in {self.function}: adapt tests/explore/run.py")
        return header[:start] + changed + header[end:]


MUTANTS = [
    Mutant("the last close wakes nobody", "pep788_wake_waiting", r"pep788_wake\(c\);", "", "old-guard"),
    Mutant("it does not wake the main interpreter", "pep788_wake_waiting", r"pep788_wake\(m\);", "", "sub"),
    Mutant("it wakes only in the first phase", "pep788_leave", r" \|\| state == PEP788_INSIDERS", "", "insiders"),
    Mutant("it looks for a sleeper before it subtracts", "pep788_leave",
           r"(pep788_record \*record = cell->record;)(.*?pep788_coordinator \*, c->main\);|)",
           r"\1 pep788_coordinator *early = PEP788_PTR(pep788_coordinator, record->coordinator);"
           r" int asleep = early != NULL && pep788_load_seq_cst(&early->waiting) != 0;"
           r" if (!asleep) { (void)pep788_sub_seq_cst(&cell->word, PEP788_UNIT); return; }\2", "old-guard"),
    Mutant("two may post one sleeper", "pep788_wake",
           r"pep788_exchange_seq_cst\(&c->waiting, \(pep788_word\)0\) != 0",
           r"(pep788_store_seq_cst(&c->waiting, (pep788_word)0), 1)", "copies-both timeout close"),
    Mutant("`waiting` is set after the look at the counts", "pep788_about_to_sleep",
           r"(    pep788_store_seq_cst\(&first->waiting, \(pep788_word\)1\);\n)(.*?)(    return !ready;)",
           r"\2\1\3", "old-guard"),
    Mutant("`waiting` is stored with release, after the lock", "pep788_about_to_sleep",
           r"    pep788_store_seq_cst\(&first->waiting, \(pep788_word\)1\);\n(    pep788_lock_set\(first, all\);\n)",
           r"\1    pep788_store_release(&first->waiting, (pep788_word)1);\n", "old-guard", "tso"),
    Mutant("a post under way is not taken after a timeout", "pep788_sleep", r"pep788_slept\(first\)",
           r"(pep788_slept(first), 0)", "timeout"),
    Mutant("RETIRED is stored before `current`", "pep788_begin_wait",
           r"(            pep788_store_release\(&r->current.*?\n)(            pep788_set_state\(r, old.*?\n)",
           r"\2\1", "close"),
    Mutant("RETIRED does not look at `current` again", "pep788_enter_slowly",
           r"(newer one\. \*/\n)            cell = PEP788_PTR\(pep788_cell, record->current\) \+ shard;\n", r"\1", "close"),
    Mutant("BUSY is skipped: count 0 is only looked at", "pep788_try_close",
           r"while \(ok && !pep788_cas_seq_cst\(&cell->word, &word, PEP788_BUSY\)\)",
           "while (0)", "close copies"),
    Mutant("only one row of a pair is made BUSY", "pep788_try_close", r"i < 2 \* r->shards && ok", "i < r->shards && ok",
           "queued-call"),
    Mutant("only the first cell of a row is made BUSY", "pep788_try_close", r"i / r->shards\] \+ i % r->shards", "i / r->shards]",
           "close", shards=2),
    Mutant("only the first cell of a row is counted", "pep788_row_count", r"i < record->shards", "i < 1", "old-guard",
           shards=2),
    Mutant("only the first cell of a row changes its state", "pep788_set_state", r"i < record->shards", "i < 1", "close",
           shards=2),
    Mutant("a close that failed leaves BUSY behind", "pep788_try_close",
           r"if \(!ok\) \{\n            pep788_apply\(c, phase, [^\n]*;", "if (!ok) {", "copies-both"),
    Mutant("a close that failed refuses from then on", "pep788_try_close",
           r"if \(!ok\) \{\n            pep788_apply\(c, phase, ",
           "if (!ok) {\n            pep788_apply(c, PEP788_PHASE_INSIDERS, ", "old-guard"),
    Mutant("states are stored without compare-and-swap", "pep788_set_state",
           r"while \(!pep788_cas_seq_cst\(&cell->word, &word, (.*?)\)\) \{\n        \}",
           r"pep788_store_seq_cst(&cell->word, \1);", "close"),
    Mutant("guards are counted without compare-and-swap", "pep788_enter_at",
           r"pep788_cas_seq_cst\(&cell->word, &word, (word \+ PEP788_UNIT)\)",
           r"(pep788_store_seq_cst(&cell->word, \1), 1)", "close"),
    Mutant("the second phase refuses nobody", "pep788_apply",
           r"phase == PEP788_PHASE_INSIDERS \? PEP788_INSIDERS : PEP788_OPEN", "PEP788_OPEN", "starve insiders"),
    Mutant("the second phase refuses insiders", "pep788_enter_slowly", r"!PEP788_INSIDE\(record\)",
           "(PEP788_INSIDE(record), 1)", "insiders"),
    Mutant("the second phase lets outsiders in", "pep788_enter_slowly", r"!PEP788_INSIDE\(record\)", "0", "starve"),
    Mutant("insiders are known to their own copy only", "pep788_inside",
           r"inside = r->ops->thread_depth\(any \? NULL : r\) != 0;", "inside = 0;", "copies-insider"),
    Mutant("who is not inside counts as inside", "pep788_inside",
           r"inside = r->ops->thread_depth\(any \? NULL : r\) != 0;", "inside = 1;", "starve"),
    Mutant("the first phase waits for new guards too", "pep788_ready_locked", r"pep788_count\(c, !drain\)",
           "pep788_count(c, 1)", "starve starve-overlap"),
    Mutant("the first phase does not wait", "pep788_step",
           r"== PEP788_PHASE_DRAIN\n        && pep788_ready_locked\(first, all\)", "== PEP788_PHASE_DRAIN",
           "old-guard"),
    Mutant("the rows do not change places", "pep788_begin_wait",
           r"            pep788_store_release\(&r->current, \(pep788_word\)young\);\n", "", "close"),
    Mutant("the step is taken without the subinterpreters' locks", "pep788_lock_set",
           r"PEP788_EACH\(it, first, all\)", "PEP788_EACH(it, first, 0)", "main-and-sub-main-guard main-and-sub"),
    Mutant("subinterpreters are not waited for", "pep788_ready_locked", r"PEP788_EACH\(c, first, all\)",
           "PEP788_EACH(c, first, 0)", "sub"),
    Mutant("only the first copy is closed", "pep788_close_locked", r"r = r->next", "r = NULL", "copies"),
    Mutant("only the first copy is made BUSY", "pep788_try_close", r"r != NULL && ok; r = r->next",
           "r != NULL && ok; r = NULL", "copies"),
    Mutant("a copy that joins is always open", "pep788_join_locked",
           r"phase == PEP788_PHASE_INSIDERS \? PEP788_INSIDERS : PEP788_OPEN", "PEP788_OPEN", "join"),
    Mutant("a copy that joins late opens a closed interpreter", "pep788_join_locked",
           r"phase == PEP788_PHASE_CLOSED", "0", "join"),
    Mutant("a new round leaves threads refused", "pep788_reopen", r"pep788_apply\(c, PEP788_PHASE_OPEN, 0\)",
           "pep788_apply(c, PEP788_PHASE_INSIDERS, 0)", "round"),
    Mutant("a subinterpreter is linked without main's phase", "pep788_link_to_main",
           r"            pep788_apply\(c, phase, 1\);[^\n]*\n", "", "link"),
    Mutant("an unlinked subinterpreter does not wake main", "pep788_unlink", r"    pep788_wake\(m\);[^\n]*\n", "",
           "unlink-leaked"),
    Mutant("main gives up and does not wake a subinterpreter's wait", "pep788_abandon",
           r"    pep788_wake_subs\(first, all\);\n", "", "main-abandons-sub"),
    Mutant("main leaves a subinterpreter open, whose own wait goes on", "pep788_wait_and_close",
           r"while \(pep788_begin_wait\(first, all\), !pep788_step\(first, all\)\)",
           "pep788_begin_wait(first, all);\n        while (!pep788_step(first, all))", "main-and-sub-kept-users"),
    Mutant("main comes back to life, and so does a subinterpreter that ended", "pep788_reopen",
           r"pep788_load_acquire\(&c->seam\) != PEP788_SEAM_PASSED", "1", "main-revives-sub"),
    Mutant("the child of a fork waits for the parent's guards", "pep788_after_fork_in_child",
           r"r->pair\[0\] = r->spare\[0\];\n.*?\(pep788_word\)r->pair\[0\]\);\n", "", "fork"),
    Mutant("the child of a fork inherits a held lock", "pep788_after_fork_in_child",
           r"    pep788_store_relaxed\(&c->lock, \(pep788_word\)0\);\n", "", "fork"),
    Mutant("the child of a fork inherits the parent's wait", "pep788_in_child",
           r"                pep788_store_release\(&c->phase, PEP788_PHASE_OPEN\);\n", "", "fork"),
    Mutant("kept: nobody executes a fence", "pep788_dim", r"PEP788_BARRIER\(\);", ";", "kept", "tso"),
    Mutant("kept: nor does the thread where it must", "pep788_tell", r"pep788_store_seq_cst", "pep788_store_release",
           "kept-fenced", "tso"),
    Mutant("kept: the state is in use before others are told", "pep788_light_on",
           r"    pep788_tell\(k, \(pep788_word\)1\);\n(.*?)(        return 1;)",
           r"\1        pep788_tell(k, (pep788_word)1);\n\2", "kept"),
    Mutant("kept: `light` is looked at once", "pep788_light_on",
           r"pep788_load_seq_cst\(&record->light\) != 0\n        && ", "", "kept"),
    Mutant("kept: a deleted state is used", "pep788_light_on", r"\n        && pep788_load_acquire[^)]*\) == PEP788_KEPT_IDLE", "",
           "kept-revive"),
    Mutant("kept: the guard of a use that was none stays open", "pep788_light_on",
           r"    pep788_light_off\(record, k\);\n", "    pep788_store_release(&k->light, (pep788_word)0);\n", "kept"),
    Mutant("kept: a guard that is being taken is not given back", "pep788_light_off",
           r"pep788_load_seq_cst\(&record->light\) == 0 \|\| ", "", "kept"),
    Mutant("kept: a guard of the round before is not given back", "pep788_light_off",
           r" \|\| pep788_load_relaxed\(&k->guard\) != 0", "", "kept-round"),
    Mutant("kept: the guard is looked at first", "pep788_light_off",
           r"if \((pep788_load_seq_cst[^)]*\) == 0) \|\| (pep788_load_relaxed[^)]*\) != 0)\)", r"if (\2 || \1)", "kept kept-round"),
    Mutant("kept: the guard is given back twice", "pep788_return_guard",
           r"    pep788_store_relaxed\(&k->guard, \(pep788_word\)0\);\n", "", "kept-round"),
    Mutant("kept: the guard is fetched without the lock", "pep788_return_guard",
           r"    pep788_lock\(&k->home->lock\);\n(.*?)    pep788_unlock\(&k->home->lock\);\n", r"\1", "kept"),
    Mutant("kept: no guard is taken", "pep788_dim", r"\(void\)pep788_add_acq_rel.*?\n[^\n]*\n", "", "kept"),
    Mutant("kept: two guards are taken in two rounds", "pep788_dim", r" && pep788_load_relaxed\(&k->guard\) == 0", "",
           "kept-holder"),
    Mutant("kept: the wait begins without a look at them", "pep788_begin_wait", r"            pep788_dim\(r\);\n", "", "kept-holder"),
    Mutant("kept: the close does not look at them", "pep788_try_close", r"            pep788_dim\(r\);\n", "", "kept"),
    Mutant("kept: a new round takes a guard for ever", "pep788_apply",
           r"        if \(phase == PEP788_PHASE_OPEN\) \{\n            pep788_set_light\(r\);\n        \}\n", "", "kept-round"),
    Mutant("kept: a subinterpreter takes part in main's wait, its states do not", "pep788_apply",
           r"            pep788_dim\(r\);\n", "", "kept-link"),
    Mutant("kept: a state that is in use is deleted", "pep788_drop_kept",
           r"\(pep788_load_acquire\(&k->light\) == 0\n\s*&& (.*?PEP788_KEPT_GONE\))\)", r"(\1)", "kept-abandon"),
    Mutant("kept: the child of a fork inherits a held lock", "pep788_after_fork_in_child",
           r"    pep788_store_relaxed\(&r->home.lock, \(pep788_word\)0\);\n", "", "kept-fork"),
    Mutant("kept: the child of a fork waits for the parent's", "pep788_kept_in_child",
           r"k->light = k->guard = 0;", "k->guard = 0;", "kept-fork"),
]

# --- building and running -------------------------------------------------------------------------------------


def run(command: Sequence[str], timeout: float = LIMIT) -> Tuple[int, str]:
    """Exit status and output of a program."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, text=True,
                          errors="replace")
    return done.returncode, done.stdout


def build(folder: pathlib.Path, header: str, model: str, shards: int = 1) -> pathlib.Path:
    """The explorer around this header text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pep788.h").write_text(header)
    (folder / "functions.h").write_text(copy_functions(header, FUNCTIONS, (HERE / "explorer.c").read_text()))
    program = folder / f"explorer{shards}-{model}"
    command = [*COMPILER, "-O2", "-std=gnu11", "-Wall", "-Wno-unused", "-I", str(folder),
               f'-DHEADER_FUNCTIONS="{folder / "functions.h"}"', f"-DTSO={int(model == 'tso')}", f"-DSHARDS={shards}",
               str(HERE / "explorer.c"), "-o", str(program)]
    status, output = run(command)
    if status != 0:
        raise Failed(f"the explorer does not compile:\n{output}")
    return program


@dataclasses.dataclass
class Outcome:
    """What one run of the explorer printed."""

    scenario: str
    model: str
    status: int
    output: str

    @property
    def fields(self) -> List[str]:
        """name, states, transitions, interleavings, depth, ends, seconds, about"""
        for line in self.output.splitlines():
            if line.startswith("RESULT\t"):
                return line.split("\t")[1:]
        return []

    @property
    def violation(self) -> Optional[str]:
        for line in self.output.splitlines():
            if line.startswith("VIOLATION\t"):
                return line.split("\t")[2]
        return None

    @property
    def steps(self) -> int:
        return len(re.findall(r"^ *\d+  T\d: (?!\(last\))", self.output, re.M))


def explore(program: pathlib.Path, scenario: str) -> Outcome:
    status, output = run([str(program), scenario])
    return Outcome(scenario, program.name.rpartition("-")[2], status, output)


def number(text: str) -> str:
    value = float(text)
    return "endless" if value < 0 else f"{value:.1e}" if value >= 1e6 else f"{value:.0f}"


def explore_all(pool: concurrent.futures.Executor, folder: pathlib.Path, header: str, wanted: Sequence[str]) -> int:
    """All scenarios in all memory models; the number of violations."""
    columns = [(model, shards) for model in MODELS for shards in SHARDS]
    programs = list(pool.map(lambda column: build(folder / f"header{column[1]}", header, *column), columns))
    status, listing = run([str(programs[0]), "--list"])
    names = [line.partition("\t")[0] for line in listing.splitlines()]
    unknown = set(wanted) - set(names)
    if status != 0 or not names or unknown:
        raise Failed(f"no such scenario: {', '.join(sorted(unknown))}; there are: {' '.join(names)}")
    names = list(wanted) or names
    failures = states = 0
    for program, (model, shards) in zip(programs, columns):
        print(f"\nEvery interleaving of 3 threads, {SHARDS[shards]}, {MODELS[model]}\n")
        print(f"{'scenario':<26} {'states':>9} {'steps':>10} {'interleavings':>13} {'longest':>7} {'s':>6}  what")
        for outcome in pool.map(lambda name, program=program: explore(program, name), names):
            if outcome.status == 0 and outcome.fields:
                name, n_states, steps, ways, depth, _, seconds, what = outcome.fields
                states += int(n_states)
                print(f"{name:<26} {n_states:>9} {steps:>10} {number(ways):>13} {depth:>7} {seconds:>6}  {what}")
            else:
                failures += 1
                print(f"{outcome.scenario:<26} FAILED (exit status {outcome.status})\n{outcome.output}")
            sys.stdout.flush()
    print(f"\n{len(names)} scenarios in {len(MODELS)} memory models, with 1 and 2 cells in a row, {states} states, "
          f"{failures} violations.")
    print("\"steps\" are transitions between states, \"interleavings\" the ways through them; \"endless\": threads that "
          "acquire for ever,\nwhere it is checked instead that no fair scheduler keeps finalization waiting (F9).")
    return failures


def explore_mutants(pool: concurrent.futures.Executor, folder: pathlib.Path, header: str) -> int:
    """Every mutant must be found; the number of those that were not."""

    def try_mutant(numbered: Tuple[int, Mutant]) -> Tuple[Mutant, List[Outcome]]:
        index, mutant = numbered
        try:
            program = build(folder / f"mutant{index}", mutant.apply(header), mutant.model, mutant.shards)
        except (Failed, Missing) as problem:
            return mutant, [Outcome(mutant.scenarios, mutant.model, 2, str(problem))]
        outcomes: List[Outcome] = []
        for scenario in mutant.scenarios.split():
            outcomes.append(explore(program, scenario))
            if outcomes[-1].violation:
                break
        shutil.rmtree(program.parent)
        return mutant, outcomes

    missed = 0
    print(f"\nMutants: the header with one deliberate bug\n\n{'bug':<62} {'found in':<24} {'model':<5} steps  as")
    for mutant, outcomes in pool.map(try_mutant, enumerate(MUTANTS)):
        last = outcomes[-1]
        if last.violation:
            print(f"{mutant.name:<62} {last.scenario:<24} {last.model:<5} {last.steps:>5}  {last.violation}")
        else:
            missed += 1
            print(f"{mutant.name:<62} NOT FOUND (exit status {last.status}) {last.output.strip()}")
        sys.stdout.flush()
    print(f"\n{len(MUTANTS) - missed} of {len(MUTANTS)} mutants found.")
    return missed


def litmus(folder: pathlib.Path, header: pathlib.Path, seconds: float) -> int:
    """The store-buffering pair on this machine; the number of failures."""
    print("\nLitmus test: close and sleep on two processors, the header's own atomics\n")
    failures = 0
    for flags, label in (["-O2"], "optimized"), (["-O1", "-g", "-fsanitize=thread"], "ThreadSanitizer"):
        program = folder / f"litmus-{label}"
        status, output = run([*COMPILER, "-std=gnu11", "-Wall", *flags, "-pthread", "-I", str(header.parent),
                              str(HERE / "litmus.c"), "-o", str(program)])
        if status != 0:
            raise Failed(f"litmus.c does not compile ({label}):\n{output}")
        status, output = run([str(program), "real", str(seconds)])
        print(f"{label + ':':<18} {output.strip()}{'' if status == 0 else '  FAILED'}")
        failures += status != 0
    status, output = run([str(folder / "litmus-optimized"), "control", "30"])
    shown = status == 1
    print(f"{'weaker on purpose:':<18} {output.strip()}" + ("" if shown else
          "  FAILED: this machine does not show the reordering, so the lines above prove nothing"))
    return failures + (not shown)


def describe_limits() -> None:
    print("""
What this does not show: three threads, each a short program; every interleaving of those, not of more. Memory is
sequentially consistent or x86-TSO. Not covered: reordering of loads, and stores seen in different orders by different
threads, which ARM and POWER allow where the order is weaker than the named one; the header has no such operation
outside its locks except acquire loads and release stores, and the stores that membarrier orders; that plain data is
ordered by them is what ThreadSanitizer checks (make sanitize).""")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--header", type=pathlib.Path, default=HEADER)
    parser.add_argument("--scenarios", nargs="+", default=[], metavar="NAME", help="only these, and nothing else")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    header = options.header.read_text()
    start = time.monotonic()
    failures = 0
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="explore-", dir=BUILD) as name, concurrent.futures.ThreadPoolExecutor(
        options.jobs
    ) as pool:
        folder = pathlib.Path(name)
        steps: List[Callable[[], int]] = [lambda: explore_all(pool, folder, header, options.scenarios)]
        if not options.scenarios:
            steps.append(lambda: explore_mutants(pool, folder, header))
            steps.append(lambda: litmus(folder, options.header, 3.0))
        for step in steps:
            try:
                failures += step()
            except (Failed, Missing, subprocess.TimeoutExpired) as problem:
                print(f"explore: {problem}")
                failures += 1
    describe_limits()
    print(f"\nexplore: {'FAILED' if failures else 'passed'} in {time.monotonic() - start:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
