"""Run pep788.h under the thread, address and undefined-behaviour sanitizers: any report at all is a failure.

`make sanitize` runs this. harness.c runs the state machine on native threads without CPython, with every compiler found
here; headers with one deliberate bug each show that the sanitizers would report. Then an extension module runs in the
interpreter that runs this script, under AddressSanitizer, and so do the functions that `pep788 shield` puts in place,
below a module that knows nothing of them. Exit status 0: no report, and every bug reported.

    run.py                 everything
    run.py --seconds 60    longer runs of the harness
    run.py --shield        the shield only
    run.py --valgrind      the shield only, with valgrind's memcheck in place of the sanitizers
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import importlib.util
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "explore"))

from header import HEADER, Missing, copy_functions, find_function  # noqa: E402

BUILD = HERE.parent.parent / "build"

# What the harness runs besides sections 2-4.
FUNCTIONS = (
    "pep788_cell_of pep788_trace pep788_reason pep788_open_guard_slowly pep788_open_guard pep788_untrace "
    "pep788_close_guard pep788_inside pep788_shard "
    "pep788_takers pep788_report_traced pep788_holders pep788_report pep788_sleep pep788_wait_and_close "
    "pep788_revive pep788_seam pep788_before_fork pep788_in_child pep788_new_coordinator pep788_unlink pep788_interpreter_gone "
    "pep788_find pep788_new_record pep788_link_to_main pep788_set_up "
    "pep788_link_kept pep788_drop_kept pep788_drop_all_kept pep788_kept_in_child"
).split()
MACROS = ("PEP788_TRACED", "PEP788_TAGS", "PEP788_BUCKETS")

SANITIZERS = {"thread": "ThreadSanitizer", "address,undefined": "AddressSanitizer and UBSan"}
REPORT = re.compile(r"^.*(?:WARNING: ThreadSanitizer|ERROR: \w+Sanitizer|SUMMARY: \w+Sanitizer|runtime error:|"
                    r"harness: FAILED).*$", re.M)
LIMIT = 600


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A deliberate bug that this sanitizer must report; no `function`: what is changed is once in the whole text."""

    name: str
    sanitizer: str
    function: str
    old: str
    new: str

    def apply(self, header: str) -> str:
        start, end = find_function(header, self.function) if self.function else (0, len(header))
        changed, count = re.subn(self.old, self.new, header[start:end], flags=re.S)
        if count != 1:
            raise Missing(f"{self.name}: its text is there {count} times: adapt tests/sanitize/run.py")
        return header[:start] + changed + header[end:]


MUTANTS = [
    Mutant("unlocking is a relaxed store", "thread", "pep788_unlock", "store_release", "store_relaxed"),
    Mutant("records are counted without the lock", "thread", "pep788_step", r"pep788_lock_set\(first, all\);\n(.*)"
           r"pep788_unlock_set\(first, all\);", r"\1"),
    Mutant("a traced guard stays on its list", "address,undefined", "pep788_untrace",
           r"if \(pep788_is_on_pair\(t->cell\)\)", "if (0)"),
    Mutant("cells are not aligned", "address,undefined", "pep788_new_pair", r"block \+= [^\n]*;", "block += 1;"),
    Mutant("kept: the end of a use is a relaxed store", "thread", "pep788_tell", "store_release", "store_relaxed"),
    Mutant("a pair is too small", "address,undefined", "pep788_new_pair", r"\(cells \+ 1\) \* sizeof", "cells / 2 * sizeof"),
]


SHIELD = HERE.parent.parent / "src" / "pep788" / "_shield.c"
SHIELD_MUTANTS = [
    Mutant("names of objects are written past their end", "address,undefined", "",
           r"size_t room = 2 [^;]*;", "size_t room = length;"),
    Mutant("the list of objects does not grow", "address,undefined", "", r"\* sizeof\(Loaded\)", ""),
    Mutant("a thread that exits stays listed", "address,undefined", "", r"\*inside->link = inside->next;", ""),
]


class Failed(Exception):
    """A step that could not be done; the text says which and why."""


def run(command: Sequence[str], env: Optional[Mapping[str, str]] = None) -> Tuple[int, str]:
    """Exit status and output of a program; one that hangs counts as failed."""
    environment = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT, text=True,
                              errors="replace", env=environment)
    except subprocess.TimeoutExpired as hung:
        return -1, f"{hung.output or ''}\nrun.py: no end after {LIMIT} s"
    return done.returncode, done.stdout


def run_sanitized(command: Sequence[str]) -> Tuple[int, str]:
    """As run(); kernels that randomize more of the address space than an older ThreadSanitizer bears need setarch."""
    status, output = run(command)
    if "unexpected memory mapping" in output and shutil.which("setarch"):
        status, output = run(["setarch", platform.machine(), "-R", *command])
    return status, output


# --- the harness ----------------------------------------------------------------------------------------------


def find_compilers(folder: pathlib.Path) -> Dict[str, List[str]]:
    """Compilers by name, and the sanitizers whose programs run here."""
    names = ["gcc", "clang"]
    for directory in os.environ.get("PATH", "").split(os.pathsep):
        if os.path.isdir(directory):
            names += sorted(n for n in os.listdir(directory) if re.fullmatch(r"(gcc|clang)-\d+", n))
    found: Dict[str, List[str]] = {}
    seen = set()
    source = folder / "empty.c"
    source.write_text("int main(void) { return 0; }\n")
    for name in names:
        path = shutil.which(name)
        if path is None or os.path.realpath(path) in seen:
            continue
        seen.add(os.path.realpath(path))
        program = folder / f"empty-{name}"
        found[name] = []
        for sanitizer in SANITIZERS:
            status, _ = run([name, f"-fsanitize={sanitizer}", str(source), "-o", str(program)])
            if status == 0 and run_sanitized([str(program)])[0] == 0:
                found[name].append(sanitizer)
    return found


def build_harness(folder: pathlib.Path, header: str, compiler: str, sanitizer: str) -> pathlib.Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pep788.h").write_text(header)
    macros = "\n".join(re.findall(rf"^#define (?:{'|'.join(MACROS)}) .*$", header, re.M))
    functions = copy_functions(header, FUNCTIONS, (HERE / "harness.c").read_text())
    (folder / "functions.h").write_text(f"{macros}\n{functions}")
    program = folder / "harness"
    status, output = run([compiler, "-O1", "-g", "-std=gnu11", "-Wall", "-Wno-unused", "-fno-omit-frame-pointer",
                          f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-pthread", "-I", str(folder),
                          f'-DHEADER_FUNCTIONS="{folder / "functions.h"}"', str(HERE / "harness.c"),
                          "-o", str(program)])
    if status != 0:
        raise Failed(f"the harness does not compile with {compiler} -fsanitize={sanitizer}:\n{output}")
    return program


def describe(compiler: str) -> str:
    return run([compiler, "--version"])[1].partition("\n")[0]


def run_harness(pool: concurrent.futures.Executor, folder: pathlib.Path, header: str, seconds: float,
                compilers: Mapping[str, Sequence[str]]) -> int:
    """The harness with every compiler and sanitizer; the number of failures."""

    def one(job: Tuple[int, str, str, str]) -> Tuple[str, str, str, int, str]:
        index, compiler, sanitizer, mode = job
        program = build_harness(folder / f"harness{index}", header, compiler, sanitizer)
        status, output = run_sanitized([str(program), str(seconds), str(index + 1), mode])
        return compiler, sanitizer, mode, status, output

    jobs = [(compiler, sanitizer, mode) for compiler, sanitizers in compilers.items()
            for sanitizer in sanitizers for mode in ("threads", "fork")]
    failures = 0
    print("The state machine on native threads, without CPython\n")
    for compiler, sanitizers in compilers.items():
        print(f"  {compiler}: {describe(compiler)}")
        for missing in set(SANITIZERS) - set(sanitizers):
            print(f"    -fsanitize={missing} does not work with it here")
    for sanitizer, name in SANITIZERS.items():
        if not any(sanitizer in sanitizers for sanitizers in compilers.values()):
            print(f"  no compiler here has {name}: FAILED")
            failures += 1
    print()
    for compiler, sanitizer, mode, status, output in pool.map(one, [(i, *job) for i, job in enumerate(jobs)]):
        numbers = [line for line in output.splitlines() if " lives of main" in line]
        if status == 0 and numbers and not REPORT.search(output):
            print(f"{compiler:<9} {sanitizer:<17} {mode:<8} {numbers[0]}")
        else:
            failures += 1
            print(f"{compiler:<9} {sanitizer:<17} {mode:<8} FAILED (exit status {status})\n{output}")
        sys.stdout.flush()
    return failures


def run_mutants(pool: concurrent.futures.Executor, folder: pathlib.Path, header: str,
                compilers: Mapping[str, Sequence[str]]) -> int:
    """Every deliberate bug must be reported by its sanitizer; the number of those that were not."""

    def one(numbered: Tuple[int, Mutant]) -> Tuple[Mutant, str]:
        index, mutant = numbered
        compiler = next((c for c, sanitizers in compilers.items() if mutant.sanitizer in sanitizers), None)
        if compiler is None:
            return mutant, ""
        try:
            program = build_harness(folder / f"mutant{index}", mutant.apply(header), compiler, mutant.sanitizer)
        except (Failed, Missing) as problem:
            return mutant, str(problem)
        return mutant, run_sanitized([str(program), "10", "1"])[1]

    missed = 0
    print("\nThe same with one deliberate bug each\n")
    for mutant, output in pool.map(one, enumerate(MUTANTS)):
        report = REPORT.search(output)
        missed += report is None
        print(f"{mutant.name:<38} {report.group(0).strip() if report else 'NOT REPORTED ' + output}")
        sys.stdout.flush()
    return missed


# --- the extension --------------------------------------------------------------------------------------------


def library(name: str) -> str:
    path = run(["gcc", f"-print-file-name={name}"])[1].strip()
    if not os.path.isabs(path):
        raise Failed(f"gcc does not know {name}: install its sanitizer libraries")
    return path


def our_leaks(output: str) -> List[str]:
    """Memory that the header or the extension allocated and lost: not what CPython itself never frees, and not cells,
    which are never freed because a late close must find them."""
    blocks = re.findall(r"^(?:Direct|Indirect) leak of .*?(?=\n\n|\Z)", output, re.M | re.S)
    ours = [b for b in blocks if re.search(r"^ +#1 .*(?:pep788\.h|extension\.c|_shield\.c)", b, re.M)]
    return [b for b in ours if "pep788_new_pair" not in b]


def build_module(source: pathlib.Path, output: pathlib.Path, header: pathlib.Path, *flags: str) -> None:
    command = ["g++" if source.suffix == ".cpp" else "gcc", "-O1", "-g", "-Wall", "-fno-omit-frame-pointer", "-shared", "-fPIC",
               "-pthread", *flags, "-I", str(header.parent)]
    for key in ("include", "platinclude"):
        command += ["-isystem", sysconfig.get_path(key)]
    status, text = run([*command, str(source), "-o", str(output)])
    if status != 0:
        raise Failed(f"{source.name} does not compile:\n{text}")


SANITIZED = ("-std=gnu11", "-fsanitize=address,undefined")


def sanitizer_environment() -> Dict[str, str]:
    return {
        "LD_PRELOAD": f"{library('libasan.so')}:{library('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=1:fast_unwind_on_malloc=0:exitcode=0",
        "PYTHONMALLOC": "malloc",
    }


def reports(output: str) -> List[str]:
    """Without those of leaks, which our_leaks() looks at."""
    return [r for r in REPORT.findall(output) if "LeakSanitizer" not in r and "byte(s) leaked" not in r]


def judge(title: str, expected: int, parts: str, status: int, output: str) -> bool:
    """Print what a run came to; whether it is without a report, did all its parts and ended as it should."""
    report = reports(output)
    leaks = our_leaks(output)
    done = re.findall(rf"^(?:{parts}).*$", output, re.M)
    good = status == expected and len(done) >= len(parts.split("|")) and not report and not leaks
    if good:
        print(f"{title}: {'; '.join(dict.fromkeys(done))}; no report")
    else:
        shown = "\n\n".join(leaks) if leaks and not report else output
        print(f"{title}: FAILED (exit status {status}), {len(leaks)} leaks of ours\n{shown}")
    return good


def run_extension(folder: pathlib.Path, header: pathlib.Path) -> int:
    """An extension in this interpreter under AddressSanitizer and UBSan; the number of failures."""
    print(f"\nAn extension module in CPython {platform.python_version()}, AddressSanitizer and UBSan\n")
    target = folder / "extension"
    target.mkdir()
    output_file = target / ("pep788_sanitized" + str(sysconfig.get_config_var("EXT_SUFFIX")))
    flags = ("-DPEP788_ALWAYS", '-DPEP788_MODULE_NAME="sanitized"')
    build_module(HERE / "extension.c", output_file, header, *SANITIZED, *flags)
    failures = 0
    for trace in "0", "1":
        environment = {**sanitizer_environment(), "PEP788_TRACE": trace}
        status, output = run([sys.executable, str(HERE / "exercise.py"), str(target)], environment)
        failures += not judge(f"PEP788_TRACE={trace}", 0, "modules|subinterpreters|forked|exiting", status, output)
    return failures


# --- the shield -----------------------------------------------------------------------------------------------

SHIELD_ENDS = {"exit": 0, "late": 7}
SHIELD_PARTS = "protected|switched|forked|subinterpreter|exiting"


def shielded_package(target: pathlib.Path, source: pathlib.Path, header: pathlib.Path, *flags: str) -> Dict[str, str]:
    """A copy of the installed package with another _shield; the environment to find it and a module to protect."""
    spec = importlib.util.find_spec("pep788")
    if spec is None or spec.origin is None:
        raise Failed("pep788 is not installed for this interpreter")
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    shutil.copytree(pathlib.Path(spec.origin).parent, target / "pep788", ignore=shutil.ignore_patterns("_shield*.so"))
    build_module(source, target / "pep788" / ("_shield" + suffix), header, *flags)
    unmodified = target.parent / ("unmodified" + suffix)
    if not unmodified.exists():
        build_module(HERE.parent / "shutdown" / "programs" / "unmodified.cpp", unmodified, header)
    return {"PYTHONPATH": f"{target}{os.pathsep}{target.parent}", "PYTHONWARNINGS": "ignore"}


def run_shield(folder: pathlib.Path, header: pathlib.Path) -> int:
    """What the shield puts in place under AddressSanitizer and UBSan, and with a bug each; the number of failures."""
    print(f"\nThe functions of pep788 shield in CPython {platform.python_version()}, AddressSanitizer and UBSan\n")
    failures = 0
    environment = {**shielded_package(folder / "shield", SHIELD, header, *SANITIZED), **sanitizer_environment()}
    for how, expected in SHIELD_ENDS.items():
        status, output = run([sys.executable, str(HERE / "exercise_shield.py"), how], environment)
        failures += not judge(how, expected, SHIELD_PARTS, status, output)
    for number, mutant in enumerate(SHIELD_MUTANTS):
        target = folder / f"shield{number}"
        source = folder / f"_shield{number}.c"
        source.write_text(mutant.apply(SHIELD.read_text()))
        environment = {**shielded_package(target, source, header, *SANITIZED), **sanitizer_environment()}
        environment["ASAN_OPTIONS"] = "detect_leaks=0"
        _, output = run([sys.executable, str(HERE / "exercise_shield.py"), "late"], environment)
        found = reports(output)
        failures += not found
        print(f"{mutant.name:<44} {found[0].strip() if found else 'NOT REPORTED ' + output}")
        sys.stdout.flush()
    return failures


def run_valgrind(folder: pathlib.Path, header: pathlib.Path) -> int:
    """The same as it is compiled for use, under memcheck; the number of failures."""
    if shutil.which("valgrind") is None:
        raise Failed("valgrind is not installed")
    print(f"\nThe functions of pep788 shield in CPython {platform.python_version()}, valgrind's memcheck\n")
    environment = {**shielded_package(folder / "shield", SHIELD, header), "PYTHONMALLOC": "malloc"}
    command = ["valgrind", "--quiet", "--error-exitcode=99", sys.executable, str(HERE / "exercise_shield.py")]
    return sum(not judge(how, expected, SHIELD_PARTS, *run([*command, how], environment))
               for how, expected in SHIELD_ENDS.items())


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--header", type=pathlib.Path, default=HEADER)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each run of the harness (default: 5)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--shield", action="store_true", help="the shield only")
    only.add_argument("--valgrind", action="store_true", help="the shield only, with valgrind")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    failures = 0
    header = options.header.read_text()
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sanitize-", dir=BUILD) as name, concurrent.futures.ThreadPoolExecutor(
        options.jobs
    ) as pool:
        folder = pathlib.Path(name)
        steps: List[Callable[[], int]]
        if options.valgrind:
            steps = [lambda: run_valgrind(folder, options.header)]
        else:
            steps = [lambda: run_shield(folder, options.header)]
        if not options.shield and not options.valgrind:
            compilers = find_compilers(folder)
            steps = [
                lambda: run_harness(pool, folder, header, options.seconds, compilers),
                lambda: run_mutants(pool, folder, header, compilers),
                lambda: run_extension(folder, options.header),
                *steps,
            ]
        for step in steps:
            try:
                failures += step()
            except (Failed, Missing) as problem:
                print(f"sanitize: {problem}")
                failures += 1
    print(f"\nsanitize: {'FAILED' if failures else 'passed'} in {time.monotonic() - start:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
