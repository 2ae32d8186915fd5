"""pep788.callback at the end of Python: calls in flight finish, late ones get their answer, no thread is lost.

Each test is RED with the plain callback of ctypes.
"""

from __future__ import annotations

import os
import sys

import pytest
import support
from calling import child, library, needs_ffi, package

pytestmark = needs_ffi

WRAPS = {
    "ours": "pep788.callback({plain}, on_closed=-7)",
    "kept": "pep788.callback({plain}, on_closed=-7, keep_thread_state=True)",
}
PATIENCE = 60_000  # ms: never reached
NO_PATIENCE = 1_000  # ms: what is lost after the end stays lost

POOL = """
begun = (ctypes.c_int * 4).in_dll(library, "begun")
ended = (ctypes.c_int * 4).in_dll(library, "ended")
flowing = threading.Event()

@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
def plain(number):
    begun[number] += 1
    sum(range(2000))            # gives the interpreter reason to switch threads
    ended[number] += 1
    if ended[number] == 50:
        flowing.set()
    return number
"""
CLEAN = "lost 0 wrong 0 cut 0 unreturned 0 called 1\n"


def pool(wrap: str, patience: int, *, pause: int = 0, end: str = "") -> support.Result:
    run = f"pointer = {wrap}\nlibrary.start_pool(pointer, {patience}, {pause})\nflowing.wait()\n{end}"
    return child(POOL + run, timeout=120)


def test_shutdown_RED_a_plain_callback_loses_threads_or_crashes():
    results = (pool("plain", NO_PATIENCE) for _ in range(30))  # now and then the plain callback is in luck
    assert any(result.returncode != 0 or result.out != CLEAN for result in results)


ENDS = {
    "of the script": "",
    "by sys.exit": "sys.exit(0)",
    "by an exception": "raise SystemExit",
    "by dropping the pointer": "del pointer",
    # More than rest when they are dropped in time: at the end none may be freed.
    "with many pointers": "others = [pep788.callback(type(plain)(int), on_closed=0) for _ in range(600)]",
}


@pytest.mark.parametrize("wrap, end", [*(("ours", end) for end in ENDS), ("kept", "of the script")])
def test_shutdown_pool(wrap: str, end: str):
    for pause in (0, 200):
        result = pool(WRAPS[wrap].format(plain="plain"), PATIENCE, pause=pause, end=ENDS[end]).check()
        assert (result.out, result.err) == (CLEAN, "")


IN_FLIGHT = """
inside, ending = threading.Event(), threading.Event()

def wait_for_the_end():             # on a non-daemon thread, which the end joins
    threading.main_thread().join()
    ending.set()

@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
def plain(number):
    inside.set()
    ending.wait()
    for _ in range(300):
        threading.Event().wait(0.001)    # lets go of the GIL: as soon as the end has it, a plain callback is cut
    print("finished", flush=True)
    return number

threading.Thread(target=wait_for_the_end).start()
pointer = WRAP
library.begin_call(pointer, 21)
inside.wait()
"""


def test_shutdown_calls_in_flight_finish():
    """The script ends when a call has begun; it goes on when the end has begun, and is waited for."""
    green = child(IN_FLIGHT.replace("WRAP", WRAPS["ours"].format(plain="plain"))).check()
    assert (green.out, green.err) == ("finished\n", "")
    red = child(IN_FLIGHT.replace("WRAP", "plain"), timeout=10)
    assert "finished\n" not in red.out, red.describe()


def test_shutdown_every_kind_of_answer_after_the_end():
    """The C library asks from exit(), when there is no Python any more."""
    result = child("""
from ctypes import *
kinds = {"sint8": (c_int8, -3), "uint16": (c_uint16, 65000), "sint": (c_int, -70000), "sint64": (c_int64, -2**40),
         "one": (c_float, 1.5), "two": (c_double, -2.5), "three": (c_longdouble, 3.5), "text": (c_char_p, b"late"),
         "wide": (c_wchar_p, "later"), "pointer": (c_void_p, 4096)}
kept = []
def ran(*args):
    print("ran after the end")
for name, (kind, value) in kinds.items():
    kept.append(pep788.callback(CFUNCTYPE(kind, kind)(ran), on_closed=value))
    getattr(library, "late_" + name)(kept[-1])
kept.append(pep788.callback(CFUNCTYPE(None, c_int)(ran)))
library.late_nothing(kept[-1])
library.ask_at_exit()
""").check()
    assert (result.out, result.err) == ("-3 65000 -70000 -1099511627776 1.5 -2.5 3.5 late later 0x1000\n", "")


def test_shutdown_the_finalizing_thread_calls_itself():
    """From a destructor while modules are torn down: too late, as on any other thread; and before it: as ever."""
    result = child("""
from ctypes import *
caller = library.call_sint32
caller.argtypes, caller.restype = [CFUNCTYPE(c_int, c_int), c_int], c_int
def function(number, write=sys.stdout.write):
    write("called %d\\n" % number)
    return number
pointer = pep788.callback(CFUNCTYPE(c_int, c_int)(function), on_closed=-7)
class Late:
    def __del__(self, caller=caller, pointer=pointer, write=sys.stdout.write):
        write("%d\\n" % caller(pointer, 2))
sys.late = Late()
assert caller(pointer, 1) == 1
""").check()
    assert result.lines() == ["called 1", "-7"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_shutdown_in_the_child_of_a_fork():
    """A call is in flight in the parent; the child calls, drops the pointer and ends."""
    result = child("""
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)     # 3.12: a thread is there at the fork
inside, go_on = threading.Event(), threading.Event()
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
def plain(number):
    if number == 1:
        inside.set()
        go_on.wait()
    return number + 1
pointer = pep788.callback(plain, on_closed=-7)
library.begin_call(pointer, 1)
inside.wait()
pid = os.fork()
if pid == 0:
    assert library.call_on_thread(pointer, 5) == 6
    del pointer
    fresh = pep788.callback(plain, on_closed=-7)
    assert library.call_on_thread(fresh, 6) == 7
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
go_on.set()
print(library.end_call())
""").check()
    assert result.out == "2\n"


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
    interpreter = interpreters.create(KIND)
except ImportError:
    import _xxsubinterpreters as interpreters
    interpreter = interpreters.create(**LEGACY)
run = getattr(interpreters, "exec", interpreters.run_string)
failure = run(interpreter, INNER)
assert failure is None, failure
with open(FILE) as file:
    address = int(file.read())
interpreters.destroy(interpreter)
late = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(address)
print(library.call_on_thread(late, 20))
"""
INNER = """
import ctypes, sys
sys.path.insert(0, PACKAGE)
import pep788
library = ctypes.CDLL(LIBRARY)
home = sys.modules          # each interpreter has its own
def function(number):
    import sys
    return number + (sys.modules is home)
pointer = pep788.callback(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(function), on_closed=-7)
assert library.call_on_thread(pointer, 20) == 21, "it ran in another interpreter"
with open(FILE, "w") as file:
    file.write(str(int.from_bytes(bytes(pointer), sys.byteorder)))
"""


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_shutdown_of_a_subinterpreter(kind: str, tmp_path):
    """The call runs in the interpreter that made the pointer, and is late when that one has ended."""

    if kind == "isolated" and sys.version_info < (3, 13):
        pytest.skip("ctypes cannot be imported into an interpreter with a GIL of its own before 3.13")

    def with_values(code: str, **values: object) -> str:
        return "".join(f"{name} = {value!r}\n" for name, value in values.items()) + code

    file = str(tmp_path / "address")
    inner = with_values(INNER, PACKAGE=str(package()), LIBRARY=str(library()), FILE=file)
    legacy = {"isolated": False} if sys.version_info >= (3, 12) else {}
    outer = with_values(SUBINTERPRETER, INNER=inner, FILE=file, KIND=kind, LEGACY=legacy)
    assert child(outer).check().out == "-7\n"
