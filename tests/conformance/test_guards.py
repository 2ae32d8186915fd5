"""G1-G11: an open guard keeps its interpreter from finalizing, and nothing else does."""

from __future__ import annotations

import itertools
import re
import signal
import sys
from typing import Tuple

import pytest

import support
from g_tools import HERE, child, embed, in_order, needs_late_threads, needs_own_gil

# A foreign thread with a guard that is closed only when the main thread has nothing left to do but to wait.
HOLDER = """
    spawn holder
        guard g v
        some g
        set held
        await atexit
        until_main_sleeps
        never finalized 100
        log closing
        close g
    end
"""

# The first callback to be registered is the last to run.
LAST_CALLBACK = """
import atexit, probe
def last_callback():
    probe.log("atexit")
    probe.set("atexit")
atexit.register(last_callback)
probe.mark()
probe.do("view_current v")
"""


def holding(code: str = "", holder: str = HOLDER, last: str = "") -> str:
    """Code whose interpreter ends while a foreign thread holds a guard; `last` is how it ends."""
    return f"{LAST_CALLBACK}\n{code}\nprobe.do('''{holder}''')\nprobe.wait('held')\n{last}\n"


# --- G1, G2: who may open and close -----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["first to last", "last to first", "inside out"])
def test_G1_any_number_closed_in_any_order(order: str) -> None:
    numbers = list(range(60))
    closing = {"first to last": numbers, "last to first": numbers[::-1], "inside out": numbers[30:] + numbers[:30]}
    here, there = closing[order][:20], closing[order][20:]
    there_lines = "\n".join(f"close g{n}" for n in there[:-1])
    result = child(
        LAST_CALLBACK
        + f"""
for n in range(0, 60, 2):
    probe.guard_current(f"g{{n}}")
for n in range(1, 60, 2):
    probe.do(f"guard g{{n}} v\\nsome g{{n}}")
for n in {here}:
    probe.do(f"close g{{n}}")
probe.do('''
    spawn closer
        {there_lines}
        await atexit
        until_main_sleeps
        never finalized 50
        log last
        close g{there[-1]}
    end
''')
"""
    )
    in_order(result, "atexit", "last", "finalized")


def test_G1_opened_and_closed_attached_and_detached() -> None:
    result = child(
        LAST_CALLBACK
        + """
probe.guard_current("zero")
probe.do("guard one v\\nsome one")
probe.do('''
    spawn foreign
        detached
        close zero
        guard two v
        some two
        detached
        ensure t two
        close one
        guard three v
        guard_current four
        close two
        run import probe; probe.log("still attached")
        close four
        release t
        detached
        set closed
        await atexit
        log closing
        close three
    end
''')
probe.wait("closed")
"""
    )
    in_order(result, "still attached", "atexit", "closing", "finalized")


def test_G2_closed_on_a_thread_that_never_ran_python() -> None:
    result = child(
        LAST_CALLBACK
        + """
probe.guard_current("g")
probe.do('''
    spawn never_ran_python
        await atexit
        until_main_sleeps
        never finalized 100
        log closing
        close g
    end
''')
"""
    )
    in_order(result, "atexit", "closing", "finalized")


def test_G2_opener_thread_is_gone_before_the_close() -> None:
    result = child(
        LAST_CALLBACK
        + """
probe.do('''
    spawn opener
        guard g v
        some g
    end
''')
probe.join("opener")
probe.do('''
    spawn closer
        await atexit
        until_main_sleeps
        never finalized 100
        log closing
        close g
    end
''')
"""
    )
    in_order(result, "atexit", "closing", "finalized")


# --- G3: finalization does not pass --------------------------------------------------------------------------------

ENDS = {
    "end of script": ("", 0),
    "sys.exit": ("import sys; sys.exit(3)", 3),
    "SystemExit in a function": ("def f(): raise SystemExit(4)\nf()", 4),
    "uncaught exception": ("raise ValueError('the end')", 1),
    "Py_Exit": ("probe.do('py_exit 5')", 5),
}


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.replace(" ", "_"))
def test_G3_every_way_to_end_waits(end: str) -> None:
    code, status = ENDS[end]
    result = child(holding(last=code))
    result.check(status)
    assert [line for line in result.lines()] == ["atexit", "closing", "finalized"], result.describe()


def test_G3_Py_FinalizeEx_waits() -> None:
    script = f"""
        init
        run {LAST_CALLBACK.replace("probe.mark()", "pass").strip().replace(chr(10), chr(92) + "n")}
        {HOLDER}
        await held
        finalize
        log after
        join holder
    """
    in_order(embed(script), "atexit", "closing", "after")


def end_of_subinterpreter(new: str) -> str:
    """The script of a program that ends a subinterpreter while a foreign thread holds a guard of it."""
    return f"""
        init
        current main
        {new} sub
        view_current v
        run import atexit, probe; atexit.register(probe.set, "sub_atexit"); atexit.register(probe.log, "atexit")
        spawn holder
            guard g v
            some g
            set held
            await sub_atexit
            until_main_sleeps
            never sub_ended 100
            ensure t g
            run import probe, colorsys; probe.log("ran " + colorsys.__name__)
            release t
            never sub_ended 20
            log closing
            close g
        end
        await held
        end_interp main
        set sub_ended
        log ended
        join holder
        refused v 10
        finalize
    """


def test_G3_Py_EndInterpreter_waits() -> None:
    result = embed(end_of_subinterpreter("new_interp"))
    in_order(result, "atexit", "ran colorsys", "closing", "ended")


@needs_own_gil
def test_G3_Py_EndInterpreter_waits_own_gil() -> None:
    result = embed(end_of_subinterpreter("new_own_gil"))
    in_order(result, "atexit", "ran colorsys", "closing", "ended")


def test_G3_everything_works_while_a_guard_is_open() -> None:
    holder = """
    spawn holder
        guard g v
        set held
        await atexit
        until_main_sleeps
        ensure t g
        run import sys; assert "wave" not in sys.modules; import wave; assert not sys.is_finalizing()
        run import gc; a = []; a.append(a); del a; assert gc.collect() > 0
        call callback
        save s
        never finalized 50
        restore s
        run import probe; open(__import__("os").devnull).close(); print("stdout works", flush=True)
        release t
        ensure t g
        run import concurrent.futures, json; assert json.loads("[1]") == [1]
        release t
        never finalized 50
        log closing
        close g
    end
    """
    code = 'probe.store("callback", lambda: probe.log("callback"))'
    in_order(child(holding(code, holder)), "atexit", "callback", "stdout works", "closing", "finalized")


@needs_late_threads
def test_G3_threads_can_be_started_and_joined_while_a_guard_is_open() -> None:
    holder = """
    spawn holder
        guard g v
        set held
        await atexit
        until_main_sleeps
        ensure t g
        run import threading, probe; t = threading.Thread(target=probe.log, args=["thread"]); t.start(); t.join()
        release t
        log closing
        close g
    end
    """
    in_order(child(holding("import threading", holder)), "atexit", "thread", "closing", "finalized")


def test_G3_ensured_thread_keeps_running_python_through_the_wait() -> None:
    """A thread that is attached, not only guarded, when finalization begins."""
    holder = """
    spawn holder
        ensure_view t v
        some t
        set held
        run while not probe.is_set("atexit"): probe.value("x")
        run for _ in range(20000): probe.value("x")
        log releasing
        release t
    end
    """
    in_order(child(holding(holder=holder)), "atexit", "releasing", "finalized")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "SystemExit from a handler"])
@pytest.mark.parametrize("inside", ["guard", "ensure"])
def test_G3_E7_a_signal_that_interrupts_threading_shutdown_changes_nothing(number: int, inside: str) -> None:
    """It came while C code ran, so threading._shutdown, the first Python code of finalization, is where it is served.

    RED before on 3.9 to 3.14: finalized with the guard open. (threading was there before us, so its being unfinished told.)
    """
    worker = {
        "guard": ("guard g v\nset inside", "ensure t g\nrun import colorsys\nrelease t\nlog worked\nclose g"),
        "ensure": ("ensure_view t v\nsave d\nset inside", "restore d\nrun import colorsys\nlog worked\nrelease t"),
    }
    begin, end = worker[inside]
    script = f"""
        init_bare
        run import threading, signal, sys, probe
        run signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
        view_main v
        spawn worker
            {begin}
            until_main_sleeps
            never finalized 100
            {end}
        end
        save main
        await inside
        restore main
        raise_signal {number:d}
        finalize
        log finalized
        join worker
    """
    in_order(embed(script), "worked", "finalized")


def test_G3_red_without_a_guard_finalization_passes() -> None:
    holder = """
    spawn holder
        set held
        await atexit
        await finalized
        log too late
        set survived
    end
    """
    result = child(holding("probe.mark(20000)", holder).replace("probe.mark()\n", ""))
    in_order(result, "atexit", "finalized", "too late")


# --- G4, G5: where finalization waits -----------------------------------------------------------------------------


def test_G4_other_threads_run_while_finalization_waits() -> None:
    """The guard is closed only because a daemon thread of Python, which holds nothing, gets to run."""
    code = """
import gc, threading
def daemon():
    probe.wait("go")
    for _ in range(3):
        gc.collect()
        sum(range(50000))
    probe.log("daemon ran")
    probe.set("daemon ran")
    probe.wait("never")
threading.Thread(target=daemon, daemon=True).start()
"""
    holder = """
    spawn holder
        guard g v
        set held
        await atexit
        until_main_sleeps
        set go
        await daemon ran
        never finalized 50
        log closing
        close g
    end
    """
    in_order(child(holding(code, holder)), "atexit", "daemon ran", "closing", "finalized")


def test_G4_other_interpreters_run_while_one_waits() -> None:
    """Legacy subinterpreters share the GIL: a wait that kept it would stop the main interpreter too."""
    script = """
        init
        current main
        interp main_interp
        view_current vm
        new_interp sub
        view_current v
        guard_current g
        spawn helper
            until_main_sleeps
            ensure_view t vm
            some t
            run import gc, probe; gc.collect(); probe.log("main interpreter ran")
            release t
            never sub_ended 50
            log closing
            close g
        end
        end_interp main
        set sub_ended
        log ended
        join helper
        finalize
    """
    in_order(embed(script), "main interpreter ran", "closing", "ended")


IMPORTS = {
    "atexit": "import atexit; atexit.register(callback)",
    "threading": "import threading",
    "probe": "import probe; probe.do('view_current v')",
    "futures": "import concurrent.futures.thread",
}


@pytest.mark.parametrize("order", list(itertools.permutations(IMPORTS)), ids="-".join)
def test_G5_guard_closed_only_because_an_atexit_callback_said_so(order: Tuple[str, ...]) -> None:
    code = """
import sys
sys.dont_write_bytecode = True
def callback():
    probe.log("callback")
    probe.do("guard_current h")
    probe.set("asked to close")
"""
    for name in order:
        code += IMPORTS[name] + "\n"
    code += """
probe.mark()
probe.do('''
    spawn holder
        guard g v
        some g
        set held
        await asked to close
        log closing
        close g
        until_main_sleeps
        never finalized 10
        log closed last
        close h
    end
''')
probe.wait("held")
"""
    in_order(child(code), "callback", "closing", "closed last", "finalized")


def test_G5_callback_that_closes_the_guard_itself() -> None:
    result = child(
        """
        import atexit
        def callback():
            probe.log("closing")
            probe.do("close g")
        atexit.register(callback)
        import probe
        probe.mark()
        probe.guard_current("g")
        """
    )
    in_order(result, "closing", "finalized")


def test_G5_waits_after_threads_pending_calls_and_atexit() -> None:
    code = """
import threading
def non_daemon():
    probe.wait("main thread joins")
    probe.log("thread")
    probe.do("pending pending call")
threading.Thread(target=non_daemon).start()
probe.do('''
    spawn starter
        until_main_sleeps
        set main thread joins
    end
''')
"""
    in_order(child(holding(code)), "thread", "pending call", "atexit", "closing", "finalized")


def test_G5_non_daemon_thread_closes_the_guard() -> None:
    """The wait must not come before the join."""
    code = """
import threading
def non_daemon():
    probe.guard_current("g")
    probe.set("started")
    probe.wait("main thread joins")
    probe.log("closing")
    probe.do("close g")
import atexit, probe
probe.mark()
threading.Thread(target=non_daemon).start()
probe.wait("started")
probe.do('''
    spawn starter
        until_main_sleeps
        set main thread joins
    end
''')
"""
    in_order(child(code), "closing", "finalized")


def test_G5_callbacks_and_threads_they_wake_acquire_guards() -> None:
    result = child(
        """
        import atexit
        def callback():
            probe.log("callback")
            probe.guard_current("mine")
            probe.do("guard also v\\nsome also")
            probe.set("woken")
            probe.wait("woken has it")
            probe.do("close mine\\nclose also")
        atexit.register(callback)
        import probe
        probe.mark()
        probe.do('''
            view_current v
            spawn woken
                await woken
                guard g v
                some g
                set woken has it
                until_main_sleeps
                never finalized 50
                ensure_view t v
                some t
                run import probe; probe.log("ran")
                release t
                log closing
                close g
            end
        ''')
        """
    )
    in_order(result, "callback", "ran", "closing", "finalized")


def test_G5_red_without_a_guard_what_a_callback_wakes_is_too_late() -> None:
    """The woken thread of the test above, holding nothing, when it is slower than the finalizing thread."""
    result = child(
        """
        import atexit
        atexit.register(lambda: probe.set("woken"))
        import probe
        probe.mark(20000)
        probe.do('''
            view_current v
            spawn woken
                await woken
                await finalized
                guard g v
                null g
                log too late
                set survived
            end
        ''')
        """
    )
    in_order(result, "finalized", "too late")


def test_G5_subinterpreter_guard_closed_by_an_atexit_callback() -> None:
    script = """
        init
        current main
        new_interp sub
        guard_current g
        run import atexit, threading, probe
        run def callback(): probe.log("closing"); probe.do("close g")
        run atexit.register(callback)
        end_interp main
        log ended
        finalize
    """
    in_order(embed(script), "closing", "ended")


# --- G6: the round is repeated ------------------------------------------------------------------------------------


def late(lines: str, code: str = "") -> support.Result:
    """Run `lines` on the holder, attached, while finalization waits for its guard; then close that."""
    indented = "\n        ".join(lines.strip().splitlines())
    holder = f"""
    spawn holder
        guard g v
        set held
        await atexit
        until_main_sleeps
        ensure t g
        {indented}
        release t
        log closing
        close g
        set closed
    end
    """
    return child(holding(code, holder))


@needs_late_threads
def test_G6_new_non_daemon_thread_is_joined() -> None:
    code = """
import threading
def late_thread():
    probe.wait("closed")
    probe.do("save s2\\nuntil_main_sleeps\\nnever finalized 50\\nrestore s2")
    probe.log("late thread")
"""
    # Threads inherit daemon, which is true of what stands for a foreign thread.
    result = late("run threading.Thread(target=late_thread, daemon=False).start()", code)
    in_order(result, "atexit", "closing", "late thread", "finalized")


@needs_late_threads
def test_G6_new_non_daemon_thread_of_an_atexit_callback_is_joined() -> None:
    code = """
import threading
def late_thread():
    probe.wait("closed")
    probe.do("save s\\nuntil_main_sleeps\\nnever finalized 50\\nrestore s")
    probe.log("late thread")
import atexit
atexit.register(lambda: threading.Thread(target=late_thread).start())
"""
    in_order(late("yield", code), "atexit", "closing", "late thread", "finalized")


def test_G6_new_atexit_callback_is_run() -> None:
    result = late('run atexit.register(probe.log, "late callback")')
    in_order(result, "atexit", "closing", "late callback", "finalized")


NATIVE_PENDING = "3.15.2 repeats the round for the interpreter's own queue, not for that of Py_AddPendingCall"


@support.ours_only(NATIVE_PENDING)
def test_G6_new_pending_call_is_run() -> None:
    """Added detached, so that nobody but the finalizing thread can run it."""
    result = late("save s\npending late pending call\nrestore s")
    in_order(result, "atexit", "closing", "finalized")
    assert result.lines().index("atexit") < result.lines().index("late pending call") < 3, result.describe()


@support.ours_only(NATIVE_PENDING)
def test_G6_pending_call_of_a_detached_thread_is_run() -> None:
    holder = """
    spawn holder
        guard g v
        set held
        await atexit
        until_main_sleeps
        pending late pending call
        close g
    end
    """
    in_order(child(holding(holder=holder)), "atexit", "late pending call", "finalized")


def test_G6_pending_calls_are_run_before_callbacks_in_the_repeated_round() -> None:
    holder = """
    spawn holder
        guard g v
        set held
        await atexit
        until_main_sleeps
        ensure t g
        run atexit.register(probe.log, "late callback")
        release t
        pending late pending call
        close g
    end
    """
    in_order(child(holding(holder=holder)), "atexit", "late pending call", "late callback", "finalized")


def test_G6_new_guard_is_honoured() -> None:
    holder = """
    spawn other
        await ask
        guard other v
        some other
        set answered
        await closed
        until_main_sleeps
        never finalized 100
        ensure t2 other
        run probe.log("other ran")
        release t2
        log closing other
        close other
    end
    spawn holder
        guard g v
        set held
        await atexit
        until_main_sleeps
        set ask
        await answered
        log closing
        close g
        set closed
    end
    """
    in_order(child(holding(holder=holder)), "atexit", "closing", "other ran", "closing other", "finalized")


def test_G6_guard_taken_by_a_late_callback_is_honoured() -> None:
    """Two rounds: the callback that appeared during the first wait hands a guard to a thread."""
    code = """
def late_callback():
    probe.guard_current("late")
    probe.set("late callback ran")
"""
    lines = """
run atexit.register(late_callback)
save s
spawn second
    await late callback ran
    until_main_sleeps
    never finalized 100
    log closing late
    close late
end
restore s
"""
    in_order(late(lines, code), "atexit", "closing", "closing late", "finalized")


def test_G6_subinterpreter_repeats_the_round() -> None:
    script = """
        init
        current main
        new_interp sub
        view_current v
        guard_current g
        run import atexit, probe; atexit.register(probe.set, "atexit"); atexit.register(probe.log, "atexit")
        spawn holder
            await atexit
            until_main_sleeps
            ensure t g
            run import atexit, probe; atexit.register(probe.log, "late callback")
            guard second v
            some second
            release t
            close g
            until_main_sleeps
            never sub_ended 50
            log closing
            close second
        end
        end_interp main
        set sub_ended
        log ended
        join holder
        finalize
    """
    result = embed(script).check()
    assert [line for line in result.lines() if line != "closing"] == ["atexit", "late callback", "ended"]
    assert result.lines()[-2:] == ["closing", "ended"] or result.lines()[1] == "closing", result.describe()


# The races of G6, G7 and V3: four threads try, from before the end until refused.
RACERS = "".join(
    f"""
    spawn racer{n}
        await start
        {operation} v ended 20
    end"""
    for n, operation in enumerate(["race", "race_ensure", "race", "race_ensure"])
)


def test_G6_no_window_between_no_guard_open_and_no_guard_ever_again() -> None:
    script = f"""
        init
        current main
        repeat {support.tries(60)}
            clear start
            clear ended
            new_interp sub
            view_current v
            {RACERS}
            set start
            end_interp main
            set ended
            refused v 20
            join racer0
            join racer1
            join racer2
            join racer3
            refused v 20
            close_view v
        end
        finalize
        log done
    """
    in_order(embed(script, timeout=300), "done")


# --- G7: refused for ever -----------------------------------------------------------------------------------------


def test_G7_refused_during_teardown_on_every_thread() -> None:
    """From a destructor that runs when modules are torn down: attached, and on a thread that is not."""
    result = child(
        """
        import probe, sys
        probe.mark()
        kept = [probe.log, probe.guard_current, probe.do, probe.set, probe.join, sys.is_finalizing, type, Exception]
        class Late:
            def __del__(self, kept=kept):
                log, guard_current, do, set, join, is_finalizing, type, Exception = kept
                log(f"finalizing: {is_finalizing()}")
                try:
                    guard_current("g")
                except Exception as raised:
                    log(" ".join(base.__name__ for base in type(raised).__mro__[:2]))
                do("refused v 100")
                set("teardown")
                join("foreign")
        probe.do('''
            view_current v
            spawn foreign
                await teardown
                refused v 100
                log refused
            end
        ''')
        late = Late()
        """
    )
    names = ["PythonFinalizationError RuntimeError"]
    if sys.version_info < (3, 13):
        names += ["RuntimeError Exception"]
    result.check()
    lines = result.lines()
    assert lines[0] == "finalizing: True" and lines[1] in names, result.describe()
    assert lines[2:] == ["refused", "finalized"], result.describe()


def test_G7_refused_after_finalization() -> None:
    script = """
        view_main early
        init
        view_current v
        guard g v
        some g
        close g
        spawn foreign
            await after
            refused v 100
            refused early 100
        end
        finalize
        refused v 100
        refused early 100
        set after
        join foreign
        refused v 1
        log done
    """
    in_order(embed(script), "done")


# --- G8: woken directly -------------------------------------------------------------------------------------------


def no_timeouts() -> str:
    """A library to preload, below which the main thread wakes up only when it is woken."""
    (library,) = support.build_extension("no_timeouts", [HERE / "no_timeouts.c"], ldflags=["-ldl"]).glob("*.so")
    return str(library)


def without_timeouts(script: str) -> int:
    """Run a script with it; returns how many waits of the main thread had a timeout."""
    result = embed(script, env={"LD_PRELOAD": no_timeouts()})
    in_order(result, "done")
    taken = re.search(r"timeouts taken: (\d+)", result.err)
    assert taken, result.describe("no_timeouts.c was not loaded")
    return int(taken.group(1))


@pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD and the semaphores of Linux")
def test_G8_the_last_close_wakes_the_finalizing_thread() -> None:
    """No polling: with every timeout of the finalizing thread taken away, the last Close still ends its wait.

    How fast it does is measured in make bench; here nothing depends on the speed of the machine.
    """
    taken = without_timeouts(
        f"""
        repeat {support.tries(20)}
            init
            current main
            clear atexit
            new_interp sub
            guard_current g
            guard_current h
            run import atexit, probe; atexit.register(probe.set, "atexit")
            spawn holder
                await atexit
                until_main_sleeps
                close g
                close h
            end
            end_interp main
            join holder
            clear atexit
            clear finalized
            guard_current g
            run import atexit, probe; atexit.register(probe.set, "atexit")
            spawn holder
                await atexit
                until_main_sleeps
                close g
            end
            finalize
            join holder
        end
        log done
    """
    )
    if not support.NATIVE:
        assert taken > 0, "the wait has a timeout, so that signals are served everywhere: what was taken away?"


@pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD and the semaphores of Linux")
def test_G8_a_waiter_that_polls_would_be_found() -> None:
    """The twin: what would give up after 50 ms waits as long as it takes once its timeout is taken away."""
    code = """
import threading, time
lock = threading.Lock()
lock.acquire()
threading.Thread(target=lambda: (time.sleep(0.5), lock.release())).start()
print(lock.acquire(timeout=0.05))
"""
    assert support.run_child(code, env={"LD_PRELOAD": no_timeouts()}).check().out == "True\n"


# --- G9: signals ----------------------------------------------------------------------------------------------------


def interrupted(handler: str, lines: str) -> support.Result:
    holder = f"""
    spawn holder
        guard g v
        set held
        await atexit
        until_main_sleeps
        {lines}
    end
    """
    return child(holding(handler, holder))


def test_G9_ctrl_c_ends_the_wait() -> None:
    result = interrupted("", "kill_sigint\n        await never")
    result.check(1)
    assert result.err.count("Interrupted while waiting on finalization guards\n") == 1, result.describe()
    assert "Interrupted while waiting on finalization guards" in result.err.splitlines(), result.describe()
    assert re.search(r"^Exception ignored .*finalization guards", result.err, re.MULTILINE), result.describe()
    assert re.search(r"^KeyboardInterrupt", result.err, re.MULTILINE), result.describe()


def test_G9_ctrl_c_ends_an_embedding_program() -> None:
    script = """
        init
        guard_current g
        run import atexit, probe; atexit.register(probe.set, "atexit")
        spawn holder
            await atexit
            until_main_sleeps
            log interrupting
            kill_sigint
            await never
        end
        finalize
        log went on
    """
    result = embed(script).check(1)
    assert result.lines() == ["interrupting"], result.describe()
    assert "Interrupted while waiting on finalization guards" in result.err.splitlines(), result.describe()


def test_G9_no_other_thread_is_interrupted() -> None:
    """A guarded thread that is attached when Ctrl-C comes is not torn down under its owner by a crash."""
    lines = """
        ensure t g
        run import probe; probe.log("attached")
        kill_sigint
        run while True: pass"""
    result = interrupted("", lines)
    result.check(1)
    assert result.lines()[:2] == ["atexit", "attached"], result.describe()
    assert "Interrupted while waiting on finalization guards" in result.err.splitlines(), result.describe()


def test_G9_handler_that_returns_lets_the_wait_go_on() -> None:
    """The guard is closed only because the handler ran."""
    handler = """
import signal
def handler(*_):
    probe.log("handler")
    probe.set("handled")
signal.signal(signal.SIGUSR1, handler)
"""
    lines = "kill_sigusr1\n        await handled\n        never finalized 50\n        log closing\n        close g"
    result = interrupted(handler, lines)
    in_order(result, "atexit", "handler", "closing", "finalized")
    assert result.err == "", result.describe()


def test_G9_ctrl_c_with_a_handler_of_its_own_is_like_any_signal() -> None:
    handler = "import signal; signal.signal(signal.SIGINT, lambda *_: probe.set('handled'))"
    lines = "kill_sigint\n        await handled\n        never finalized 50\n        log closing\n        close g"
    in_order(interrupted(handler, lines), "atexit", "closing", "finalized")


def test_G9_other_exception_is_reported_and_the_wait_goes_on() -> None:
    handler = """
import signal, sys
def hook(unraisable):
    probe.log("unraisable " + unraisable.exc_type.__name__)
    probe.set("reported")
sys.unraisablehook = hook
def handler(*_):
    raise LookupError("from the handler")
signal.signal(signal.SIGUSR1, handler)
"""
    lines = "kill_sigusr1\n        await reported\n        never finalized 50\n        log closing\n        close g"
    in_order(interrupted(handler, lines), "atexit", "unraisable LookupError", "closing", "finalized")


def test_G9_many_signals_are_all_served() -> None:
    handler = """
import signal
counts = []
def handler(*_):
    counts.append(1)
    probe.set("handled")
signal.signal(signal.SIGUSR1, handler)
import atexit
atexit.register(lambda: None)
"""
    lines = "repeat 20\n clear handled\n kill_sigusr1\n await handled\n end\n log closing\n close g"
    in_order(interrupted(handler, lines), "atexit", "closing", "finalized")


# --- G10: subinterpreters -------------------------------------------------------------------------------------------

NEW = ["new_interp", pytest.param("new_own_gil", marks=needs_own_gil)]


@pytest.mark.parametrize("new", NEW)
def test_G10_a_guard_on_one_does_not_hold_up_another(new: str) -> None:
    script = f"""
        init
        current main
        guard_current gm
        {new} one
        guard_current g1
        save one
        restore main
        {new} two
        guard_current g2
        close g2
        end_interp main
        log two ended
        save main
        restore one
        close g1
        end_interp main
        log one ended
        close gm
        finalize
        log main ended
    """
    in_order(embed(script), "two ended", "one ended", "main ended")


@pytest.mark.parametrize("new", NEW)
def test_G10_guards_of_each_are_its_own(new: str) -> None:
    """A thread given guards of two interpreters attaches to the right one each time."""
    script = f"""
        init
        current main
        interp main_interp
        view_current vm
        {new} sub
        interp sub_interp
        view_current vs
        save sub
        restore main
        save main
        spawn foreign
            guard gm vm
            guard gs vs
            differ gm gs
            ensure t gm
            interp i
            same i main_interp
            release t
            ensure t gs
            interp i
            same i sub_interp
            release t
            close gm
            close gs
            log right
        end
        join foreign
        restore sub
        end_interp main
        finalize
    """
    in_order(embed(script), "right")


KINDS = [
    "legacy",
    "isolated",
    pytest.param(
        "concurrent",
        id="concurrent.interpreters",
        marks=pytest.mark.skipif(sys.version_info < (3, 14), reason="concurrent.interpreters is new in 3.14"),
    ),
]


@pytest.mark.parametrize("kind", KINDS)
def test_G10_made_by_python_waits_for_its_own_guards(kind: str) -> None:
    result = child(
        f"""
        import probe
        from subinterpreters import create, destroy, run_string
        one, two = create("{kind}"), create("{kind}")
        run_string(one, "import probe; probe.do('view_current v'); probe.guard_current('g')")
        run_string(one, "import atexit; atexit.register(probe.set, 'atexit'); atexit.register(probe.log, 'atexit')")
        run_string(two, "import probe; probe.guard_current('h'); probe.do('close h')")
        probe.guard_current("gm")
        destroy(two)
        probe.log("two destroyed")
        probe.do('''
            spawn holder
                await atexit
                until_main_sleeps
                never destroyed 100
                ensure t g
                run import probe; probe.log("ran in one")
                release t
                never destroyed 20
                log closing
                close g
            end
        ''')
        destroy(one)
        probe.set("destroyed")
        probe.log("one destroyed")
        probe.do("refused v 10\\nclose gm")
        """
    )
    in_order(result, "two destroyed", "atexit", "ran in one", "closing", "one destroyed")


@pytest.mark.parametrize("kind", KINDS)
def test_G10_main_waits_for_guards_of_a_living_subinterpreter(kind: str) -> None:
    """No Py_AtExit mark: on 3.9-3.11 CPython kills its main thread while it ends a leftover subinterpreter."""
    result = child(
        f"""
        import atexit, probe
        atexit.register(probe.set, "atexit")
        atexit.register(probe.log, "atexit")
        from subinterpreters import create, destroy, run_string
        one = create("{kind}")
        run_string(one, "import probe; probe.do('view_current v'); probe.guard_current('g')")
        probe.do('''
            spawn holder
                await atexit
                until_main_sleeps
                await_up_to never 100
                ensure t g
                some t
                run import probe, colorsys; probe.log("ran in one")
                release t
                guard h v
                some h
                close g
                until_main_sleeps
                await_up_to never 50
                ensure t h
                run import probe, wave; probe.log("ran again")
                release t
                log closing
                close h
            end
        ''')
        """
    )
    in_order(result, "atexit", "ran in one", "ran again", "closing")


@pytest.mark.parametrize("new", NEW)
@pytest.mark.skipif(sys.version_info < (3, 13), reason="Py_FinalizeEx is fatal with such a subinterpreter up to 3.12")
def test_G10_main_waits_for_guards_of_one_made_in_c(new: str) -> None:
    script = f"""
        init
        current main
        {new} sub
        view_current v
        guard_current g
        save sub
        restore main
        run import atexit, probe; atexit.register(probe.set, "atexit")
        spawn holder
            await atexit
            until_main_sleeps
            never finalized 100
            ensure t g
            run import probe; probe.log("ran in sub")
            release t
            never finalized 20
            log closing
            close g
        end
        finalize
        log ended
        join holder
        refused v 10
    """
    in_order(embed(script), "ran in sub", "closing", "ended")


@pytest.mark.parametrize("kind", KINDS)
def test_G10_leftover_subinterpreter_without_guards_holds_nothing_up(kind: str) -> None:
    result = child(
        f"""
        import probe
        from subinterpreters import create, destroy, run_string
        one = create("{kind}")
        run_string(one, "import probe; probe.do('view_current v'); probe.guard_current('g'); probe.do('close g')")
        probe.log("end")
        """
    )
    in_order(result, "end")


# --- G11: the main interpreter again and again ----------------------------------------------------------------------


def test_G11_twenty_cycles() -> None:
    script = """
        view_main v
        repeat 20
            clear atexit
            clear finalized
            refused v 3
            init
            guard_current g
            guard h v
            some h
            run import atexit, probe; atexit.register(probe.set, "atexit")
            spawn holder
                close h
                await atexit
                until_main_sleeps
                never finalized 10
                ensure t g
                run import probe, threading; probe.log("ran")
                release t
                close g
            end
            finalize
            log ended
            join holder
            refused v 3
        end
    """
    result = embed(script, timeout=180).check()
    assert result.lines() == ["ran", "ended"] * 20, result.describe()


def test_G11_cycles_with_subinterpreters_and_races() -> None:
    script = f"""
        view_main v
        repeat {support.tries(6)}
            clear start
            clear ended
            clear finalized
            init
            current main
            new_interp sub
            guard_current g
            close g
            end_interp main
            {RACERS}
            set start
            finalize
            set ended
            refused v 20
            join racer0
            join racer1
            join racer2
            join racer3
            refused v 20
        end
        log done
    """
    in_order(embed(script, timeout=180), "done")
