"""Run pep788.h under the thread, address and undefined-behaviour sanitizers: any report at all is a failure.

`make sanitize` runs this. harness.c runs the state machine on native threads without CPython, with every compiler found
here; headers with one deliberate bug each show that the sanitizers would report. Then an extension module runs in the
interpreter that runs this script, under AddressSanitizer. Exit status 0: no report, and every bug reported.

    run.py                 everything
    run.py --seconds 60    longer runs of the harness
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
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
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "explore"))

from header import HEADER, Missing, copy_functions, find_function  # noqa: E402

BUILD = HERE.parent.parent / "build"

# What the harness runs besides sections 2-4.
FUNCTIONS = (
    "pep788_cell_of pep788_trace pep788_reason pep788_open_guard pep788_close_guard pep788_inside pep788_shard "
    "pep788_takers pep788_report_traced pep788_holders pep788_report pep788_sleep pep788_wait_and_close "
    "pep788_revive pep788_seam pep788_before_fork pep788_in_child pep788_new_coordinator pep788_unlink pep788_interpreter_gone "
    "pep788_find pep788_new_record pep788_link_to_main pep788_set_up "
    "pep788_link_kept pep788_drop_kept pep788_drop_all_kept pep788_kept_in_child"
).split()
MACROS = ("PEP788_TRACED", "PEP788_TAGS")

SANITIZERS = {"thread": "ThreadSanitizer", "address,undefined": "AddressSanitizer and UBSan"}
REPORT = re.compile(r"^.*(?:WARNING: ThreadSanitizer|ERROR: \w+Sanitizer|SUMMARY: \w+Sanitizer|runtime error:|"
                    r"harness: FAILED).*$", re.M)
LIMIT = 600


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A deliberate bug in the header that this sanitizer must report."""

    name: str
    sanitizer: str
    function: str
    old: str
    new: str

    def apply(self, header: str) -> str:
        start, end = find_function(header, self.function)
        changed, count = re.subn(self.old, self.new, header[start:end], flags=re.S)
        if count != 1:
            raise Missing(f"its text is {count} times in {self.function}: adapt tests/sanitize/run.py")
        return header[:start] + changed + header[end:]


MUTANTS = [
    Mutant("unlocking is a relaxed store", "thread", "pep788_unlock", "store_release", "store_relaxed"),
    Mutant("records are counted without the lock", "thread", "pep788_step", r"pep788_lock_set\(first, all\);\n(.*)"
           r"pep788_unlock_set\(first, all\);", r"\1"),
    Mutant("a traced guard stays on its list", "address,undefined", "pep788_close_guard",
           r"if \(pep788_is_on_pair\(cell\)\)", "if (0)"),
    Mutant("cells are not aligned", "address,undefined", "pep788_new_pair", r"block \+= [^\n]*;", "block += 1;"),
    Mutant("kept: the end of a use is a relaxed store", "thread", "pep788_tell", "store_release", "store_relaxed"),
    Mutant("a pair is too small", "address,undefined", "pep788_new_pair", r"\(cells \+ 1\) \* sizeof", "cells / 2 * sizeof"),
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
    ours = [b for b in blocks if re.search(r"^ +#1 .*(?:pep788\.h|extension\.c)", b, re.M)]
    return [b for b in ours if "pep788_new_pair" not in b]


def run_extension(folder: pathlib.Path, header: pathlib.Path) -> int:
    """An extension in this interpreter under AddressSanitizer and UBSan; the number of failures."""
    print(f"\nAn extension module in CPython {platform.python_version()}, AddressSanitizer and UBSan\n")
    target = folder / "extension"
    target.mkdir()
    output_file = target / ("pep788_sanitized" + str(sysconfig.get_config_var("EXT_SUFFIX")))
    command = ["gcc", "-O1", "-g", "-std=gnu11", "-Wall", "-fno-omit-frame-pointer", "-fsanitize=address,undefined",
               "-shared", "-fPIC", "-pthread", "-DPEP788_ALWAYS", '-DPEP788_MODULE_NAME="sanitized"', "-I",
               str(header.parent)]
    for key in ("include", "platinclude"):
        command += ["-isystem", sysconfig.get_path(key)]
    status, output = run([*command, str(HERE / "extension.c"), "-o", str(output_file)])
    if status != 0:
        raise Failed(f"the extension does not compile:\n{output}")
    failures = 0
    for trace in "0", "1":
        environment = {
            "LD_PRELOAD": f"{library('libasan.so')}:{library('libubsan.so')}",
            "ASAN_OPTIONS": "detect_leaks=1:fast_unwind_on_malloc=0:exitcode=0",
            "PYTHONMALLOC": "malloc",
            "PEP788_TRACE": trace,
        }
        status, output = run([sys.executable, str(HERE / "exercise.py"), str(target)], environment)
        report = [r for r in REPORT.findall(output) if "LeakSanitizer" not in r and "byte(s) leaked" not in r]
        leaks = our_leaks(output)
        done = re.findall(r"^(?:modules|subinterpreters|forked|exiting).*$", output, re.M)
        if status == 0 and len(done) >= 4 and not report and not leaks:
            print(f"PEP788_TRACE={trace}: {'; '.join(dict.fromkeys(done))}; no report")
        else:
            failures += 1
            shown = "\n\n".join(leaks) if leaks and not report else output
            print(f"PEP788_TRACE={trace}: FAILED (exit status {status}), {len(leaks)} leaks of ours\n{shown}")
    return failures


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--header", type=pathlib.Path, default=HEADER)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each run of the harness (default: 5)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    start = time.monotonic()
    failures = 0
    header = options.header.read_text()
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sanitize-", dir=BUILD) as name, concurrent.futures.ThreadPoolExecutor(
        options.jobs
    ) as pool:
        folder = pathlib.Path(name)
        compilers = find_compilers(folder)
        steps = (
            lambda: run_harness(pool, folder, header, options.seconds, compilers),
            lambda: run_mutants(pool, folder, header, compilers),
            lambda: run_extension(folder, options.header),
        )
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
