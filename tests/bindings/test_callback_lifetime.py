"""pep788.callback: what its pointers own, when that is freed, and what is never freed under a call."""

from __future__ import annotations

import sys

import pytest
import support
from calling import child, needs_ffi, package

pytestmark = needs_ffi

INT = """
import weakref
INT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
gc.disable()        # what dies, dies without it, unless a test collects
def make(function, **options):
    return pep788.callback(INT(function), on_closed=-7, **options)
"""


def test_lifetime_the_pointer_owns_all_it_needs():
    """Stored in a structure or an array it stays alive, as the plain one does."""
    child(
        INT
        + """
pointer = make(lambda number: number + 1)
gc.collect()
assert type(pointer) is INT and pointer(1) == 2
assert library.call_on_thread(pointer, 20) == 21

class Handlers(ctypes.Structure):
    _fields_ = [("on_event", INT)]
handlers = Handlers(pointer)
del pointer
gc.collect()
array = (INT * 2)(INT(), handlers.on_event)
gc.collect()
assert handlers.on_event(1) == 2
del handlers
assert array[1](2) == 3
"""
    ).check()


def test_lifetime_everything_goes_with_the_pointer():
    child(
        INT
        + """
def function(number): return number
gone = weakref.ref(function)
pointer = make(function)
del function
assert gone() is not None and pointer(1) == 1
del pointer
assert gone() is None
"""
    ).check()


def test_lifetime_cycles_are_collected():
    child(
        INT
        + """
class Stream:
    def __init__(self):
        self.pointer = make(self.event)
    def event(self, number):
        return number
stream = Stream()
assert stream.pointer(3) == 3
gone = weakref.ref(stream)
del stream
gc.collect()
assert gone() is None
"""
    ).check()


def test_lifetime_dropped_while_a_call_is_inside():
    """What the call runs is freed when it returns, by the thread that made it. RED when the pointer frees it at once."""
    child(
        INT
        + """
inside, go_on = threading.Event(), threading.Event()
def function(number):
    inside.set()
    go_on.wait()
    return number + 1
plain = INT(function)
gone = weakref.ref(plain)
pointer = pep788.callback(plain, on_closed=-7)
address = address_of(pointer)
library.begin_call(pointer, 1)
inside.wait()
del function, plain, pointer
gc.collect()
assert gone() is not None
assert INT(address)(5) == -7        # dropped: late, though a call is inside
go_on.set()
assert library.end_call() == 2
assert gone() is None
"""
    ).check()


def test_lifetime_dropped_by_its_own_call():
    child(
        INT
        + """
pointers = []
def function(number):
    pointers.clear()
    gc.collect()
    seen.append(gone() is not None)
    return number + 1
plain = INT(function)
gone = weakref.ref(plain)
seen = []
pointers.append(pep788.callback(plain, on_closed=-7))
address = address_of(pointers[0])
del plain
assert INT(address)(1) == 2
assert seen == [True] and gone() is None
"""
    ).check()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_lifetime_dropped_pointers_do_not_pile_up():
    """Those that rest are freed in turn, also when some of them have calls inside."""
    child(
        INT
        + """
inside, go_on = threading.Semaphore(0), threading.Event()
def function(number):
    inside.release()
    go_on.wait()
    return number + 1
waiting = make(function)
library.begin_call(waiting, 1)
inside.acquire()
del waiting
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])
def churn(count):
    for _ in range(count):
        pointer = make(int)
        assert pointer(4) == 4
churn(2000)
before = resident()
churn(10000)
assert resident() - before < 500, resident() - before       # pages; a record and a closure are 300 bytes or more
go_on.set()
assert library.end_call() == 2
""",
    ).check()


def test_lifetime_pointers_come_and_go_under_fire():
    """Threads drop and make pointers while a pool calls others: no call may meet freed memory."""
    result = child(
        INT
        + """
begun = (ctypes.c_int * 4).in_dll(library, "begun")
ended = (ctypes.c_int * 4).in_dll(library, "ended")
flowing = threading.Event()
def function(number):
    begun[number] += 1
    ended[number] += 1
    if ended[number] == 1000:
        flowing.set()
    return number
pool = make(function, keep_thread_state=True)
library.start_pool(pool, 60000, 0)
def churn():
    while not flowing.is_set():
        pointer = make(lambda n: n + 1)
        assert pointer(1) == 2
        address = address_of(pointer)
        del pointer
        assert INT(address)(1) == -7
threads = [threading.Thread(target=churn) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    ).check()
    assert (result.out, result.err) == ("lost 0 wrong 0 cut 0 unreturned 0 called 1\n", "")


def test_lifetime_for_ever():
    child(
        INT
        + """
def function(number): return number + 1
here = weakref.ref(function)
pointer = make(function, forever=True)
address = address_of(pointer)
del function, pointer
gc.collect()
for _ in range(1000):
    make(int)
assert INT(address)(1) == 2 and library.call_on_thread(INT(address), 5) == 6 and here() is not None
"""
    ).check()


def test_lifetime_a_call_holds_a_guard():
    child(
        INT
        + """
from pep788 import _core
seen = []
pointer = make(lambda number: seen.append((pep788.guard_count(), dict(_core.modules())["pep788.callback"])) or 3)
assert library.call_on_thread(pointer, 1) == 3 and pointer(1) == 3
assert seen == [(1, 1), (1, 1)] and pep788.guard_count() == 0
"""
    ).check()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere states may not be kept: docs/limits.md")
def test_lifetime_kept_thread_states():
    """The same thread-locals in each call of a thread; without the option a fresh state each time."""
    child(
        INT
        + """
local = threading.local()
def count(number):
    local.calls = getattr(local, "calls", 0) + 1
    return local.calls
fresh, kept = make(count), make(count, keep_thread_state=True)
assert library.call_often(fresh, 10) == 1
assert library.call_often(kept, 10) == 10
assert library.call_often(kept, 10) == 10
"""
    ).check()


def test_lifetime_calls_nest():
    child(
        INT
        + """
def function(number):
    return 0 if number == 0 else 1 + (pointer if number % 2 else other)(number - 1)
pointer, other = make(function), make(function, keep_thread_state=True)
assert pointer(60) == 60 and library.call_on_thread(pointer, 60) == 60 and library.call_on_thread(other, 61) == 61
"""
    ).check()


def test_lifetime_an_exception_is_what_ctypes_makes_of_it():
    result = child(
        INT
        + """
hooked = []
sys.unraisablehook = lambda what: hooked.append(what.exc_type)
pointer = make(lambda number: 1 / 0)
library.call_on_thread(pointer, 5)
assert hooked == [ZeroDivisionError]
"""
    ).check()
    assert result.err == ""


def test_lifetime_importing_pep788_does_not_load_ctypes():
    child("").check()  # the prelude itself works
    code = "import sys\nbefore = set(sys.modules)\nimport pep788\nprint(sorted(set(sys.modules) - before))"
    result = support.run_child(code, path=[package()]).check()
    assert "ctypes" not in result.out and "typing" not in result.out and "_callback" not in result.out
