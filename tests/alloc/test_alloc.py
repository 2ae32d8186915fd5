"""Every allocation failing in turn: NULL where the contract says so, and nothing lost."""

from __future__ import annotations

import pathlib
import sys

import pytest
import support

HERE = pathlib.Path(__file__).resolve().parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs a linker with --wrap")

NO_MEMORY = 4
# What reports a failure by an exception; the others give NULL (or nothing) and leave none.
RAISES = {"init", "guard", "view", "modules"}
CANNOT_FAIL = {"close", "release", "drop"}
ATTACHED = [
    "init",
    "guard",
    "view",
    "main_view",
    "guard_from_view",
    "close",
    "ensure",
    "ensure_view",
    "release",
    "drop",
    "modules",
]
FOREIGN = ["main_view", "guard_from_view", "close", "ensure", "ensure_view", "release", "drop"]


@pytest.fixture(scope="module")
def path() -> pathlib.Path:
    wrap = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc")]
    # gcc knows malloc and free well enough to leave out a pair of them.
    plain = [f"-fno-builtin-{name}" for name in ("malloc", "calloc", "realloc", "free")]
    return support.build_extension("a_fail", [HERE / "a_fail.c"], extra=plain, ldflags=wrap)


HEAD = f"""
import atexit, os, sys
import a_fail as m
NATIVE, NO_MEMORY = {support.NATIVE}, {NO_MEMORY}
RAISES, CANNOT_FAIL = {RAISES!r}, {CANNOT_FAIL!r}

def check(name, done, fired, failure, exception):
    if done:
        assert exception is None, (name, exception)
        return
    assert fired, f"{{name}} failed although no allocation did"
    assert name not in CANNOT_FAIL, name
    assert exception == ("MemoryError" if name in RAISES else None), (name, exception)
    if not NATIVE:
        # The reason is for NULL of the nine functions; Pep788_Init and Pep788_Modules have exceptions only.
        assert failure == NO_MEMORY or name in ("init", "modules"), (name, failure)

def still_works():
    '''With memory again: guards are given, Ensure works on a native thread, and finalization waits.'''
    m.set_up()
    for name in ("guard", "view", "main_view", "guard_from_view", "ensure", "ensure_view"):
        assert m.run(name, 10**9, False) == (1, 0, 0, None), name
    for name in ("main_view", "guard_from_view", "ensure", "ensure_view"):
        assert m.run_foreign(name, 10**9, False) == (1, 0, 0, None), name
    m.tear_down()
    if not NATIVE:
        assert m.guard_count() == 0, m.guard_count()
    m.hold()
    atexit.register(m.release_hold)
"""

EACH = """
name, foreign = sys.argv[1], sys.argv[2] == "foreign"
run = m.run_foreign if foreign else m.run
m.set_up()
rounds = leaks = 0
for forever in (False, True):
    n = 0
    while True:
        if name == "drop":
            m.give()
        done, fired, failure, exception = run(name, n, forever)
        check(name, done, fired, failure, exception)
        if not NATIVE:
            assert m.guard_count() == 1, (name, n, m.guard_count())  # that of set_up
        if name == "drop":
            leaked = m.given() - leaks
            leaks += leaked
            assert leaked == 0 or fired, n  # without memory for a thread state it is leaked, as when it is too late
            # Attached, nothing is between the caller and Py_DECREF; native 3.15 allocates a guard even there.
            assert leaked == 0 or foreign or NATIVE, n
        if not fired:
            break
        n += 1
        assert n < 10000
    rounds += n
m.tear_down()
still_works()
print(rounds)
"""


def rounds(result: support.Result) -> int:
    return int(result.check().out)


def test_the_counter_counts(path) -> None:
    code = HEAD + """
assert m.run("nothing", 0, False)[:2] == (0, 1)
assert m.run("nothing", 1, False)[:2] == (0, 1)
assert m.run("nothing", 2, False)[:2] == (1, 0)
assert m.run("nothing", 0, True)[:2] == (0, 2)
"""
    support.run_child(code, path=[path]).check()


@pytest.mark.parametrize("name", ATTACHED)
def test_attached(path, name: str) -> None:
    count = rounds(support.run_child(HEAD + EACH, path=[path], args=[name, "attached"]))
    if name in ("view", "main_view"):
        assert count > 0  # views are the one thing that is allocated


@pytest.mark.parametrize("name", FOREIGN)
def test_on_a_foreign_thread(path, name: str) -> None:
    count = rounds(support.run_child(HEAD + EACH, path=[path], args=[name, "foreign"]))
    if name in ("ensure", "ensure_view"):
        assert count > 0  # a thread state is made


FRESH = """
name, forever = sys.argv[1], sys.argv[2] == "for ever"
read, write = os.pipe()
n = 0
while True:
    pid = os.fork()
    if not pid:
        done, fired, failure, exception = m.run(name, n, forever)
        check(name, done, fired, failure, exception)
        os.write(write, b"%d" % bool(fired))
        still_works()
        sys.exit(0)
    status = os.waitpid(pid, 0)[1]
    assert status == 0, (name, n, status)
    if os.read(read, 1) == b"0":
        break
    n += 1
print(n)
"""


@pytest.mark.parametrize("forever", ["once", "for ever"])
@pytest.mark.parametrize("name", ["init", "guard", "view"])
def test_the_first_call_in_a_process(path, name: str, forever: str) -> None:
    """Setting an interpreter up takes the most memory. What failed half-way is finished by the next call; each n has
    a process of its own, forked before the header did anything."""
    count = rounds(support.run_child(HEAD + FRESH, path=[path], args=[name, forever], timeout=300))
    if not support.NATIVE:
        assert count > 3


@support.ours_only("native 3.15 allocates each guard")
def test_a_process_without_memory_still_ends(path) -> None:
    """libc has nothing left for the header when finalization begins: it waits all the same, and ends."""
    code = HEAD + """
still_works()
atexit.register(m.starve, True)
"""
    support.run_child(code, path=[path]).check()


@support.ours_only("the child of 3.15.2 inherits the count of guards and hangs at its exit (F1)")
@pytest.mark.parametrize("opened", ["no guard open", "a guard open"])
def test_a_fork_without_memory(path, opened: str) -> None:
    """The child may be refused guards for want of memory, never crash or hang; the parent is as before."""
    code = HEAD + f"""
m.set_up()
if {opened == "no guard open"}:
    m.tear_down()
m.starve(True)
pid = os.fork()
if not pid:
    done, fired, failure, exception = m.run("guard", 10**9, False)
    assert done or exception in ("MemoryError", "RuntimeError", "PythonFinalizationError"), exception
    m.starve(False)
    if {opened == "a guard open"}:
        m.tear_down()
    assert m.guard_count() == 0, m.guard_count()
    sys.exit(5)
m.starve(False)
assert os.waitpid(pid, 0)[1] == 5 << 8
if {opened == "a guard open"}:
    assert m.guard_count() == 1
    m.tear_down()
still_works()
"""
    support.run_child(code, path=[path]).check()
