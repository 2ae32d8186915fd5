"""The watchdog: a process that does not end says why, and one that ends says nothing.

The programs hang for good. abort_after ends them with SIGABRT right after the report: no test waits for a time limit.
"""

from __future__ import annotations

import re
import signal
import sys
from typing import Callable, List

import pytest
import support

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="looks at /proc, and calls functions of glibc"
)

HERE = support.REPO / "tests" / "shutdown" / "programs"
Python = Callable[..., support.Result]

SET_UP = """
import atexit, ctypes, os, sys, threading, time
import pep788
libc = ctypes.CDLL(None)
keep_gil = ctypes.PyDLL(None).pause             # sleeps for ever, and never lets go of the GIL
NOW = dict(after=0.01, abort_after=0.01)        # for code that is about to hang, in finalization
def hang(how=keep_gil):
    pep788.watchdog(**NOW)
    how()
def threads():
    return len(os.listdir("/proc/self/task"))
"""
# Enough to come to any stage on a loaded machine.
WATCHED = SET_UP + "pep788.watchdog(1.0, abort_after=1.0)\n"
ENV = {"PEP788_WATCHDOG": "1.0", "PEP788_WATCHDOG_ABORT_AFTER": "1.0"}


def aborted(result: support.Result) -> str:
    """What the watchdog of a program that hung has said."""
    if result.hung or result.signal != signal.SIGABRT:
        pytest.fail(result.describe("expected a report and SIGABRT"), pytrace=False)
    assert "aborts the process" in result.err, result.describe()
    return result.err.split("the watchdog aborts the process")[0]  # faulthandler may go on


def reports(text: str) -> List[str]:
    return re.findall(r"^pep788: the process has not ended .*$", text, re.MULTILINE)


def stage(report: str) -> str:
    found = re.findall(r"^pep788: stage: (.*)$", report, re.MULTILINE)
    assert len(found) == 1, report
    return str(found[0])


# --- each stage has its name --------------------------------------------------------------------------------------

FORGOTTEN_THREAD = """
never = threading.Event()
def wait_here():
    never.wait()
threading.Thread(target=wait_here, name="forgotten").start()
"""


def test_non_daemon_thread(python: Python) -> None:
    report = aborted(python(WATCHED + FORGOTTEN_THREAD))
    assert stage(report).startswith("in threading._shutdown, waiting for non-daemon threads")
    assert re.search(r"sleeping, in futex \(a lock\), non-daemon thread 'forgotten' 0x", report), report
    assert re.search(r"non-daemon thread 'MainThread' 0x[0-9a-f]{16}, finalizes$", report, re.MULTILINE), report
    assert " in wait_here\n" in report


def test_worker_of_concurrent_futures(python: Python) -> None:
    """Its exit hook runs before anything that threading._register_atexit got earlier."""
    pool = """
import concurrent.futures
concurrent.futures.ThreadPoolExecutor(1).submit(threading.Event().wait)
"""
    report = aborted(python(WATCHED + pool))
    assert stage(report).startswith("in threading._shutdown")
    assert "concurrent/futures/thread.py" in report and " in _python_exit\n" in report


def test_atexit_callback(python: Python) -> None:
    report = aborted(python(SET_UP + "pep788.watchdog(1000)\natexit.register(hang, lambda: time.sleep(1e6))"))
    assert stage(report).startswith("in atexit callbacks or pending calls")
    assert re.search(r"in (clock_nanosleep|p?select), non-daemon thread 'MainThread'", report), report
    assert " in hang\n" in report


def test_atexit_callback_that_keeps_the_GIL(python: Python) -> None:
    report = aborted(python(SET_UP + "pep788.watchdog(1000)\natexit.register(hang)"))
    assert stage(report).startswith("in atexit callbacks or pending calls")
    assert " in hang\n" in report


def test_guard_of_a_daemon_thread(python: Python) -> None:
    hold = """
entered = threading.Event()
def hold_here():
    with pep788.guard():
        entered.set()
        time.sleep(1e6)
threading.Thread(target=hold_here, daemon=True, name="writer").start()
entered.wait()
"""
    report = aborted(python(WATCHED + hold))
    assert stage(report).startswith("waiting for interpreter guards")
    assert "pep788: open interpreter guards: 1" in report
    assert "pep788:   1 of module pep788, interpreter 0\n" in report
    assert re.search(r"taken by daemon thread 'writer' \(native id [1-9]\d*\), open for \d+\.\d s\n", report), report
    assert " in hold_here\n" in report


def test_guard_of_an_extension(python: Python) -> None:
    folder = support.build_extension("holder", [HERE / "holder.c"], defines=['PEP788_MODULE_NAME="holder"'])
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\nimport pep788, holder\nholder.hold()"
    report = aborted(python(code, env=ENV))
    if support.NATIVE:
        assert stage(report).startswith("after the atexit callbacks and the wait for guards")
        assert "pep788: open interpreter guards: 0 (CPython does not tell of native ones)" in report
    else:
        assert stage(report).startswith("waiting for interpreter guards")
        assert "pep788:   1 of module holder, interpreter 0\n" in report
        assert "taken by non-daemon thread 'MainThread' (" in report  # the variable traces every module


def test_untraced_guards_are_counted(python: Python) -> None:
    code = """
        import threading, time, pep788
        entered = threading.Event()
        def hold():
            with pep788.guard():
                entered.set()
                time.sleep(1e6)
        threading.Thread(target=hold, daemon=True).start()
        entered.wait()
    """
    report = aborted(python(code, env={**ENV, "PEP788_TRACE": "0"}))
    assert "1 of module pep788, interpreter 0 (PEP788_TRACE=1 tells their threads and ages)" in report


def test_destructor_after_the_flag(python: Python) -> None:
    destructor = """
class Stuck:
    def __del__(self, keep_gil=keep_gil):
        keep_gil()
stuck = Stuck()
"""
    report = aborted(python(WATCHED + destructor))
    assert stage(report).startswith("after the finalizing flag: flush of standard streams")
    assert " in __del__\n" in report


def test_Py_AtExit_after_the_modules(python: Python) -> None:
    at_exit = "ctypes.pythonapi.Py_AtExit(ctypes.cast(libc.pause, ctypes.c_void_p))"
    report = aborted(python(WATCHED + at_exit))
    assert stage(report).startswith("after the finalizing flag and the teardown of modules")
    assert "pep788: Python stacks: there are none any more" in report


def test_exit_handler_of_C(python: Python) -> None:
    report = aborted(python(WATCHED + "libc.on_exit(ctypes.cast(libc.pause, ctypes.c_void_p), None)"))
    assert stage(report).startswith("in exit handlers of the process")
    assert re.search(r"has not ended \d+\.\d s after its exit began", report)


# --- when, how often, and until when -------------------------------------------------------------------------------


def test_reports_come_with_growing_pauses(python: Python) -> None:
    code = SET_UP + "pep788.watchdog(0.1, abort_after=1.2)\natexit.register(keep_gil)"
    report = aborted(python(code))
    announced = [float(pause) for pause in re.findall(r"the next one follows in (\d+\.\d) s", report)]
    assert announced[:2] == [0.2, 0.4]
    assert [int(number) for number in re.findall(r"report (\d+)\)", report)][:3] == [1, 2, 3]


def test_no_thread_before_finalization(python: Python) -> None:
    code = SET_UP + "pep788.watchdog(1000)\nprint(threads())\natexit.register(lambda: print(threads()))"
    assert python(code).check().lines() == ["1", "2"]


@pytest.mark.parametrize(
    "end", ["pass", "sys.exit(3)", "os._exit(3)", "atexit.register(os._exit, 3)", "raise KeyError"]
)
def test_clean_exit_is_silent(python: Python, end: str) -> None:
    status = 0 if end == "pass" else 1 if end == "raise KeyError" else 3
    result = python(f"import atexit, os, sys\nimport pep788\n{end}", env={"PEP788_WATCHDOG": "1000"}).check(status)
    assert result.out == "" and ("pep788" not in result.err)


def test_environment(python: Python) -> None:
    report = aborted(
        python("import pep788, threading\nthreading.Thread(target=threading.Event().wait).start()", env=ENV)
    )
    assert len(reports(report)) == 1


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "2e9", "0x10"])
def test_bad_environment_is_told_once(python: Python, value: str) -> None:
    result = python("import pep788; print('on')", env={"PEP788_WATCHDOG": value}).check()
    assert result.out == "on\n"
    assert result.err == (
        f"pep788: PEP788_WATCHDOG={value!r} is not a number of seconds above 0 and up to 1e+09; it is ignored, "
        "give a number like 10\n"
    )


def test_environment_that_aborts_too_soon(python: Python) -> None:
    env = {"PEP788_WATCHDOG": "10", "PEP788_WATCHDOG_ABORT_AFTER": "5"}
    assert python("import pep788", env=env).check().err == (
        "pep788: PEP788_WATCHDOG_ABORT_AFTER=5 is less than PEP788_WATCHDOG=10; it is ignored, give a larger number\n"
    )


def test_no_place_in_Py_AtExit(python: Python) -> None:
    """The package can be imported all the same; asked in code, it is an error."""
    code = """
        import ctypes
        while ctypes.pythonapi.Py_AtExit(ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)) == 0:
            pass
        import pep788
        try:
            pep788.watchdog()
        except RuntimeError as error:
            print(error)
    """
    result = python(code, env={"PEP788_WATCHDOG": "1000"}).check()
    message = "the watchdog cannot see the end of finalization: all 32 places of Py_AtExit are taken\n"
    assert (result.out, result.err) == (message, f"pep788: {message}")


@pytest.mark.parametrize("value", ["", "0", None])
def test_unset_environment_does_nothing(python: Python, value: str) -> None:
    code = "import sys, threading, pep788\nprint(threading._shutdown.__code__.co_filename == threading.__file__)"
    assert python(code, env={"PEP788_WATCHDOG": value}).check().out == "True\n"


def test_stacks_that_crash_the_dumper_hurt_nobody(python: Python) -> None:
    """They are read in a copy of the process. What faulthandler does is replaced by abort() of C."""
    crash = """
import faulthandler
def register(number, **options):
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(number, ctypes.cast(libc.abort, ctypes.c_void_p))
faulthandler.register = register
pep788.watchdog(0.1, abort_after=0.5)
atexit.register(keep_gil)
"""
    report = aborted(python(SET_UP + crash))
    assert len(reports(report)) >= 2
    assert "pep788: the stacks could not be read to the end\n" in report


def test_reports_while_finalization_goes_on_do_not_change_it(python: Python) -> None:
    busy = """
import os, tempfile
said = tempfile.TemporaryFile()
os.dup2(said.fileno(), 2)
pep788.watchdog(0.002)
def deep(n):
    return n and deep(n - 1)
class Slow:
    def __init__(self):
        self.cycle = self
    def __del__(self, deep=deep):
        deep(30)
slow = [Slow() for _ in range(2000)]
def spin():
    while True:
        deep(30)
threading.Thread(target=spin, daemon=True).start()
def work():
    while os.pread(2, 1 << 20, 0).count(b"the process has not ended") < 2:
        deep(80)
    os.write(1, os.pread(2, 1 << 20, 0))
atexit.register(work)
"""
    for _ in range(support.tries(2)):
        result = python(SET_UP + busy).check()
        assert len(reports(result.out)) >= 2


# --- settings -------------------------------------------------------------------------------------------------------


def test_bad_arguments_are_refused(python: Python) -> None:
    result = python("""
        import pep788
        for arguments in [("1",), (True,), (0,), (-1.5,), (float("nan"),), (10**400,)]:
            try:
                print(pep788.watchdog(*arguments))
            except (TypeError, ValueError) as error:
                print(type(error).__name__, str(error)[:66])
        for after, abort_after in [(2, 1), (None, 1), (1, "2")]:
            try:
                print(pep788.watchdog(after, abort_after=abort_after))
            except (TypeError, ValueError) as error:
                print(type(error).__name__, error)
    """).check()
    limits = "after must be more than 0 and at most 1e+09 seconds, not"
    assert result.lines() == [
        "TypeError after must be a number of seconds or None, not str",
        "TypeError after must be a number of seconds or None, not bool",
        f"ValueError {limits} 0",
        f"ValueError {limits} -1.5",
        f"ValueError {limits} nan",
        f"ValueError {limits} 100000000",
        "ValueError abort_after (1) must not be less than after (2)",
        "ValueError abort_after needs after; None turns the watchdog off",
        "TypeError abort_after must be a number of seconds or None, not str",
    ]


def test_settings_can_be_changed_after_finalization_began(python: Python) -> None:
    code = SET_UP + "pep788.watchdog(1000)\natexit.register(keep_gil)\natexit.register(pep788.watchdog, **NOW)"
    assert len(reports(aborted(python(code)))) == 1


def test_watchdog_may_be_set_for_the_first_time_in_a_callback(python: Python) -> None:
    code = SET_UP + "atexit.register(hang)"
    report = aborted(python(code))
    assert stage(report).startswith("in atexit callbacks") and " in hang\n" in report


def test_watchdog_is_turned_off(python: Python) -> None:
    """The second callback runs first; a thread that goes away is not counted at once."""
    code = (
        SET_UP
        + """
pep788.watchdog(1000)
def off():
    print(threads())
    pep788.watchdog(None)
    while threads() > 1:
        pass
    print(threads())
atexit.register(off)
"""
    )
    assert python(code).check().lines() == ["2", "1"]


# --- what is not the end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["atexit._run_exitfuncs()", "threading._shutdown()"])
def test_call_by_hand_does_not_start_the_clock(python: Python, call: str) -> None:
    assert python(SET_UP + f"pep788.watchdog(1000)\n{call}\nprint(threads())").check().out == "1\n"


def test_end_of_a_subinterpreter_is_not_the_end(python: Python) -> None:
    code = (
        SET_UP
        + """
pep788.watchdog(1000)
try:
    import _interpreters as api
except ImportError:
    import _xxsubinterpreters as api
def run(code):
    done = api.run_string(sub, code)
    assert done is None, done
sub = api.create()
run(f"import sys; sys.path[:0] = {sys.path!r}; import atexit, threading, pep788; atexit.register(lambda: None)")
run('''
try:
    pep788.watchdog()
except RuntimeError as error:
    print(error, flush=True)
''')
api.destroy(sub)
print(threads())
"""
    )
    env = {"PEP788_WATCHDOG": "1000"}
    message = "the watchdog watches the end of the main interpreter; call watchdog() there"
    assert python(code, env=env).check().lines() == [message, "1"]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="later versions end the subinterpreter and go on")
def test_finalizing_thread_that_CPython_ends(python: Python) -> None:
    """The main thread is ended when it takes the GIL in there; the watcher must not be what keeps the process."""
    code = (
        SET_UP
        + """
import _xxsubinterpreters
pep788.watchdog(1000)
left = _xxsubinterpreters.create()
_xxsubinterpreters.run_string(left, "import atexit, time; atexit.register(time.sleep, 0.01)")
"""
    )
    assert python(code, timeout=20).check().err == ""


# --- fork -------------------------------------------------------------------------------------------------------------


def test_forked_child_has_its_own_watch(python: Python) -> None:
    code = (
        SET_UP
        + """
pep788.watchdog(1000)
child = os.fork()
if child == 0:
    atexit.register(hang)
else:
    print(child, os.WTERMSIG(os.waitpid(child, 0)[1]))
"""
    )
    result = python(code).check()
    child, signal_number = result.out.split()
    assert int(signal_number) == signal.SIGABRT
    assert [f"(process {child}, report 1)" in line for line in reports(result.err)] == [True], result.describe()


def test_fork_after_finalization_began(python: Python) -> None:
    """The child has no watcher, whatever its parent had, and starts its own at its own next stage."""
    code = (
        SET_UP
        + """
atexit.register(hang)
def fork():
    child = ctypes.PyDLL(None).fork()           # 3.12.0-3.12.2 refuse os.fork()
    if child == 0:
        os._exit(threads())
    print(os.WEXITSTATUS(os.waitpid(child, 0)[1]), flush=True)
pep788.watchdog(1000)
atexit.register(fork)
"""
    )
    result = python(code)
    assert len(reports(aborted(result))) == 1
    assert result.out == "1\n"


def test_child_of_multiprocessing(python: Python, tmp_path) -> None:
    """It calls threading._shutdown itself and leaves by os._exit."""
    program = tmp_path / "program.py"
    program.write_text(
        SET_UP
        + """
import multiprocessing
pep788.watchdog(1000)
def work():
    pep788.watchdog(0.5, abort_after=0.5)
    threading.Thread(target=threading.Event().wait, name="of the child").start()
if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    print(child.exitcode)
"""
    )
    result = python(f"import runpy; runpy.run_path({str(program)!r}, run_name='__main__')").check()
    assert result.out == f"{-signal.SIGABRT}\n"
    assert len(reports(result.err)) == 1 and "non-daemon thread 'of the child'" in result.err


# --- embedding --------------------------------------------------------------------------------------------------------


def test_embedding_program_that_starts_Python_again(package) -> None:
    program = support.build_program("cycles", [HERE / "cycles.c"])
    codes = ["import pep788; pep788.watchdog(1000)", SET_UP + "pep788.watchdog(1000)\natexit.register(hang)"]
    result = support.run_child([program, *codes], path=[package])
    report = aborted(result)
    assert len(reports(report)) == 1 and stage(report).startswith("in atexit callbacks")
    assert "pep788: Python stacks of the main interpreter's threads:" in report
    assert result.lines() == ["threads before: 1", "threads between: 1", "threads before: 1"]


# --- the documentation ------------------------------------------------------------------------------------------------


def block(label: str) -> str:
    page = (support.REPO / "docs" / "watchdog.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- test: {label} -->\n```\w+\n(.*?)```", page, re.DOTALL)
    assert found is not None, label
    return found.group(1)


def shape(report: str) -> List[str]:
    """The watchdog's own lines without what differs from run to run. Up to 3.13 all threads have the program's name."""
    lines = [line for line in report.splitlines() if line.startswith("pep788: ") and "end of report" not in line]
    return [re.sub(r"0x[0-9a-f]+|\d+", "N", re.sub(r"^(pep788:   \d+) [^,]+", r"\1 name", line)) for line in lines]


def test_transcript_in_the_documentation(python: Python) -> None:
    program = block("program").replace("after=10", "after=0.5, abort_after=0.5")
    report = aborted(python(program))
    report = report.replace(" (CPython does not tell of native ones)", "")  # 3.15+
    assert shape(report)[:-1] == shape(block("report"))
    assert " in write_log\n" in report
