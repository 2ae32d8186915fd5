"""The Python package: what `with pep788.guard():` promises, and that no leak turns it into a hang."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
import textwrap

import pytest
import support

# --- the context manager --------------------------------------------------------------------------------------


def test_guard_holds_from_enter_to_exit(python):
    result = python("""
        import pep788
        guard = pep788.guard()
        print(pep788.guard_count(), end=" ")
        with guard as value:
            print(pep788.guard_count(), value, end=" ")
            with pep788.guard():
                print(pep788.guard_count(), end=" ")
        print(pep788.guard_count(), end=" ")
        with guard:                             # one object, one block after the other
            print(pep788.guard_count())
    """).check()
    assert result.out.split() == ["0", "1", "None", "2", "0", "1"]
    assert result.err == ""


def test_reentrant_use_of_one_object_is_refused_and_keeps_holding(python):
    result = python("""
        import pep788
        guard = pep788.guard()
        with guard:
            try:
                with guard:
                    print("entered twice")
            except RuntimeError as error:
                print(error)
            print(pep788.guard_count())
        print(pep788.guard_count())
    """).check()
    assert result.lines() == [
        "this guard is already entered; write 'with pep788.guard():' for each block",
        "1",
        "0",
    ]


def test_exit_without_enter_is_refused(python):
    result = python("""
        import pep788
        guard = pep788.guard()
        for round in "never entered", "already left":
            try:
                guard.__exit__(None, None, None)
            except RuntimeError as error:
                print(error)
            with guard:
                pass
        try:
            guard.__exit__()
        except TypeError:
            print("takes three arguments")
    """).check()
    unused = "this guard is not entered; use it in a with statement"
    assert result.lines() == [unused, unused, "takes three arguments"]


def test_exceptions_pass_through_the_block(python):
    result = python("""
        import pep788
        try:
            with pep788.guard():
                raise KeyError("mine")
        except KeyError as error:
            print(error, pep788.guard_count())
    """).check()
    assert result.out == "'mine' 0\n"


def test_exit_on_another_thread(python):
    result = python("""
        import threading, pep788
        entered, left = threading.Event(), threading.Event()
        guard = pep788.guard()
        def enter():
            guard.__enter__()
            entered.set()
            left.wait()
            with pep788.guard():
                print("again", pep788.guard_count())
        thread = threading.Thread(target=enter)
        thread.start()
        entered.wait()
        print(pep788.guard_count())
        guard.__exit__(None, None, None)
        print(pep788.guard_count())
        left.set()
        thread.join()
        print(pep788.guard_count())
    """).check()
    assert result.lines() == ["1", "0", "again 1", "0"]


def test_guard_and_view_take_no_arguments_and_no_subclasses(python):
    result = python("""
        import pep788
        def refused(call):
            try:
                call()
            except TypeError:
                return True
        print(refused(lambda: pep788.guard(1)),
              refused(lambda: pep788.View()),
              refused(lambda: type("Sub", (pep788.guard,), {})),
              refused(lambda: type("Sub", (pep788.View,), {})))
    """).check()
    assert result.out.split() == ["True"] * 4


# --- R1: an object that is gone holds nothing -----------------------------------------------------------------


def test_collected_guard_is_closed(python):
    result = python("""
        import gc, pep788
        gc.disable()
        def leak():
            guard = pep788.guard()
            guard.__enter__()
        leak()
        print(pep788.guard_count())
        def leak_in_a_cycle():
            guard = pep788.guard()
            guard.__enter__()
            cycle = [guard]
            cycle.append(cycle)
        leak_in_a_cycle()
        print(pep788.guard_count())
        gc.collect()
        print(pep788.guard_count())
    """).check()
    assert result.lines() == ["0", "1", "0"]


@pytest.mark.parametrize("collector", ["enabled", "disabled"])
def test_unreachable_cycle_of_a_live_daemon_thread_does_not_hold(python, collector):
    result = python(f"""
        import gc, threading, pep788
        gc.disable()                # until the guard has been counted
        leaked, never = threading.Event(), threading.Event()
        def leak():
            guard = pep788.guard()
            guard.__enter__()
            cycle = [guard]
            cycle.append(cycle)
        def work():
            leak()
            leaked.set()
            never.wait()
        threading.Thread(target=work, daemon=True).start()
        leaked.wait()
        print(pep788.guard_count())
        if {collector!r} == "enabled":
            gc.enable()
    """).check()
    assert result.out == "1\n"
    assert result.err == ""


# --- R2 and R3: a guard left behind by a thread that ended, or that finalizes ----------------------------------

LEAKS = {
    "entered by hand": """
        def leak():
            global left
            left = pep788.guard()
            left.__enter__()
    """,
    "through a view": """
        def leak():
            global left
            left = pep788.View.main().guard()
            left.__enter__()
    """,
    "suspended generator": """
        def numbers():
            with pep788.guard():
                yield 1
        def leak():
            global left
            left = numbers()
            next(left)
    """,
    "suspended coroutine": """
        class Pause:
            def __await__(self):
                yield
        async def work():
            with pep788.guard():
                await Pause()
        def leak():
            global left
            left = work()
            left.send(None)
    """,
    "exit stack": """
        import contextlib
        left = contextlib.ExitStack()
        def leak():
            left.enter_context(pep788.guard())
    """,
    "hundred in a list": """
        left = [pep788.guard() for _ in range(100)]
        def leak():
            for guard in left:
                guard.__enter__()
    """,
}


def leaking(how: str, run: str) -> str:
    """Code that leaks a guard `how` and then does `run`, one statement a line."""
    parts = ["import pep788", textwrap.dedent(LEAKS[how]), textwrap.dedent(run)]
    return "\n".join([*parts, 'print("end", pep788.guard_count(), flush=True)'])


def ends_by_itself(result: support.Result, still_open: bool) -> None:
    """The child ended, said nothing on stderr, and the leak was one when that was to be expected."""
    result.check()
    assert result.err == ""
    end, count = result.out.split()[-2:]
    assert end == "end"
    assert (int(count) > 0) == still_open, result.describe()


@pytest.mark.parametrize("how", LEAKS)
def test_left_in_a_global_by_the_main_thread(python, how):
    ends_by_itself(python(leaking(how, "leak()")), still_open=True)


@pytest.mark.parametrize("how", LEAKS)
@pytest.mark.parametrize("daemon", [False, True])
def test_left_in_a_global_by_a_thread_that_ended(python, how, daemon):
    run = f"""
        import threading, time
        thread = threading.Thread(target=leak, daemon={daemon})
        thread.start()
        thread.join()
        while pep788.guard_count():     # join() may return before the thread state is cleared
            time.sleep(0.001)
    """
    ends_by_itself(python(leaking(how, run)), still_open=False)


@pytest.mark.skipif(sys.platform == "win32", reason="makes the thread with pthread_create")
@pytest.mark.parametrize("how", LEAKS)
def test_left_in_a_global_by_a_foreign_thread(python, how):
    run = """
        import ctypes
        libc = ctypes.CDLL(None)
        callback = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(lambda arg: leak())
        thread = ctypes.c_ulong()
        assert libc.pthread_create(ctypes.byref(thread), None, callback, None) == 0
        assert libc.pthread_join(thread, None) == 0
    """
    ends_by_itself(python(leaking(how, run)), still_open=False)


def test_thread_that_ends_while_shutdown_waits_for_its_leak(python):
    result = python("""
        import atexit, os, threading, pep788
        entered, ending = threading.Event(), threading.Event()
        atexit.register(ending.set)
        def work():
            global left
            left = pep788.guard()
            left.__enter__()
            entered.set()
            ending.wait()
            for _ in range(100):
                threading.Event().wait(0.001)
            os.write(1, b"done\\n")
        threading.Thread(target=work, daemon=True).start()
        entered.wait()
    """).check()
    assert (result.out, result.err) == ("done\n", "")


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("how", ["entered by hand", "suspended generator", "exit stack"])
def test_left_in_a_global_by_an_atexit_callback(python, how, order):
    register = 'import atexit\natexit.register(lambda: (leak(), print("leaked")))\n'
    code = leaking(how, "") + "\n"
    code = register + code if order == "before" else code + register
    result = python(code).check()
    assert result.err == ""
    assert "leaked" in result.out


def test_left_in_a_global_by_the_first_import_in_an_atexit_callback(python):
    """Then our own callback is registered too late to be called (3.9-3.15 drop it)."""
    result = python("""
        import atexit, sys
        @atexit.register
        def late():
            import pep788
            sys.left = pep788.guard()
            sys.left.__enter__()
            print("leaked", pep788.guard_count())
    """).check()
    assert (result.out, result.err) == ("leaked 1\n", "")


@pytest.mark.parametrize("call", ["_run_exitfuncs", "_clear"])
def test_daemon_thread_is_not_stopped_after_the_atexit_registry_was_cleared(python, call):
    result = python(
        WORKER
        + textwrap.dedent(f"""
        atexit.{call}()
        ending.clear()
        atexit.register(ending.set)
        threading.Thread(target=work, args=(pep788.guard(),), daemon=True).start()
        entered.wait()
    """)
    ).check()
    assert (result.out, result.err) == ("done\n", "")


@pytest.mark.parametrize("call", ["_run_exitfuncs", "_clear"])
def test_left_in_a_global_after_the_atexit_registry_was_cleared(python, call):
    run = f"""
        import atexit
        leak()
        atexit.{call}()
        first, left = left, pep788.guard()
        left.__enter__()
    """
    ends_by_itself(python(leaking("entered by hand", run)), still_open=True)


CLEARED_BY_A_THREAD = """
    import atexit, threading
    thread = threading.Thread(target=atexit.{})
    thread.start()
    thread.join()
"""


@pytest.mark.parametrize("call", ["_run_exitfuncs", "_clear"])
def test_left_by_the_main_thread_after_a_thread_cleared_the_atexit_registry(python, call):
    """Our callback ran last on a thread that has ended, but it is the main thread that finalizes.

    RED before (_run_exitfuncs): the exit hung on 3.9, 3.11 and 3.14.
    """
    run = textwrap.dedent(CLEARED_BY_A_THREAD.format(call)) + "leak()"
    ends_by_itself(python(leaking("entered by hand", run)), still_open=True)


@pytest.mark.parametrize("call", ["_run_exitfuncs", "_clear"])
def test_left_by_the_main_thread_before_a_thread_cleared_the_atexit_registry(python, call):
    """As above, and nothing is entered afterwards that could register our callback again.

    RED before: the exit hung on 3.9, 3.11 and 3.14.
    """
    run = "leak()\n" + textwrap.dedent(CLEARED_BY_A_THREAD.format(call))
    ends_by_itself(python(leaking("entered by hand", run)), still_open=True)


def test_main_thread_may_leave_after_its_guard_was_dropped(python):
    result = python("""
        import atexit, pep788
        guard = pep788.guard()
        @atexit.register
        def leave():
            print(guard, pep788.guard_count())
            guard.__exit__(None, None, None)
            print(guard, pep788.guard_count())
        atexit.unregister(leave)
        guard.__enter__()
        print(guard)
        atexit.register(leave)
    """).check()
    assert result.lines()[0] == "<pep788.guard holding>"
    assert result.lines()[-1] == "<pep788.guard not entered> 0"


# --- daemon threads at shutdown -------------------------------------------------------------------------------

WORKER = """
import atexit, contextlib, os, sys, threading, time, pep788

entered, ending = threading.Event(), threading.Event()
atexit.register(ending.set)

def work(context):
    with context:
        entered.set()
        ending.wait()
        for _ in range(200):            # lets the finalizing thread go on, 200 times
            time.sleep(0.001)
        import decimal                  # imports work as ever
        os.write(1, b"done\\n")
"""


def test_daemon_thread_is_not_stopped_in_the_block(python):
    result = python(
        WORKER
        + textwrap.dedent("""
        threading.Thread(target=work, args=(pep788.guard(),), daemon=True).start()
        entered.wait()
    """)
    ).check()
    assert (result.out, result.err) == ("done\n", "")


def test_daemon_thread_without_a_guard_is_lost(python):
    """The twin that shows the test above can fail."""
    result = python(
        WORKER
        + textwrap.dedent("""
        threading.Thread(target=work, args=(contextlib.nullcontext(),), daemon=True).start()
        entered.wait()
    """)
    )
    assert "done" not in result.out


def test_many_daemon_threads_are_not_stopped_in_the_block(python):
    result = python(
        WORKER
        + textwrap.dedent("""
        def many():
            barrier.wait()
            work(pep788.View.current().guard())
        barrier = threading.Barrier(9)
        for _ in range(8):
            threading.Thread(target=many, daemon=True).start()
        barrier.wait()
        while pep788.guard_count() < 8:
            time.sleep(0.001)
    """)
    ).check()
    assert (result.out, result.err) == ("done\n" * 8, "")


@pytest.mark.parametrize("context", ["manager", "stack"])
def test_block_around_the_guard_counts_too(python, context):
    """A guard entered by contextlib on behalf of the block: its own frame is suspended or gone."""
    result = python(
        WORKER
        + textwrap.dedent(f"""
        @contextlib.contextmanager
        def manager():
            with pep788.guard():
                yield
        @contextlib.contextmanager
        def stack():
            with contextlib.ExitStack() as stack:
                stack.enter_context(pep788.guard())
                yield
        threading.Thread(target=work, args=({context}(),), daemon=True).start()
        entered.wait()
    """)
    ).check()
    assert (result.out, result.err) == ("done\n", "")


def test_new_guards_are_had_while_shutdown_waits_for_this_thread(python):
    """The second phase of the wait (F9) refuses threads that hold nothing; this one holds something."""
    result = python(
        WORKER
        + textwrap.dedent("""
        def outer():
            with pep788.guard():
                first = pep788.guard()
                first.__enter__()
                entered.set()
                ending.wait()
                for _ in range(100):
                    time.sleep(0.001)
                    second = pep788.guard()
                    second.__enter__()
                    first.__exit__(None, None, None)
                    first = second
                first.__exit__(None, None, None)
            # The guard that was open when the wait began is closed only here.
            os.write(1, b"done\\n")
        def run():
            with pep788.guard():
                outer()
        threading.Thread(target=run, daemon=True).start()
        entered.wait()
    """)
    ).check()
    assert (result.out, result.err) == ("done\n", "")


def test_thread_that_holds_only_later_guards_may_take_more(python):
    result = python(
        WORKER
        + textwrap.dedent("""
        def run():
            held = pep788.guard()
            held.__enter__()
            entered.set()
            ending.wait()
            for _ in range(200):        # hand over hand: the one from before the wait is soon closed
                time.sleep(0.001)
                more = pep788.guard()
                more.__enter__()
                held.__exit__(None, None, None)
                held = more
            os.write(1, b"done\\n")
            held.__exit__(None, None, None)
        threading.Thread(target=run, daemon=True).start()
        entered.wait()
    """)
    ).check()
    assert (result.out, result.err) == ("done\n", "")


@pytest.mark.parametrize("before", ["nothing", "left here", "left elsewhere"])
def test_thread_that_holds_nothing_is_refused_once_shutdown_is_under_way(python, before):
    """What the thread held `before`, and who left that, makes no difference."""
    result = python(
        WORKER
        + textwrap.dedent(f"""
        before = {before!r}
        turn, back = threading.Semaphore(0), threading.Semaphore(0)
        refused = []
        def hold_before():
            guard = pep788.guard()
            guard.__enter__()
            leave = threading.Thread(target=guard.__exit__, args=(None, None, None))
            if before == "left elsewhere":
                leave.start()
                leave.join()
            else:
                leave.run()
        def stranger():
            if before != "nothing":
                hold_before()
            while not refused:
                turn.acquire()
                try:
                    with pep788.guard():
                        pass
                except pep788.PythonFinalizationError as error:
                    refused.append(str(error))
                back.release()
        def run():
            held = pep788.guard()
            held.__enter__()
            entered.set()
            ending.wait()
            while not refused:
                time.sleep(0.001)
                more = pep788.guard()
                more.__enter__()
                held.__exit__(None, None, None)
                held = more
                turn.release()
                back.acquire()
            os.write(1, refused[0].encode() + b"\\n")
            held.__exit__(None, None, None)
        threading.Thread(target=run, daemon=True).start()
        threading.Thread(target=stranger, daemon=True).start()
        entered.wait()
    """)
    ).check()
    assert result.out.startswith("the interpreter is finalizing and gives no more guards; ")
    assert result.err == ""


@pytest.mark.parametrize("how", ["pep788.guard()", "pep788.View.main().guard()"])
def test_daemon_threads_that_enter_without_pause_do_not_starve_shutdown(python, how):
    for _ in range(support.tries(3)):
        result = python(f"""
            import threading, pep788
            ready = threading.Barrier(5)
            def work():
                ready.wait()
                try:
                    while True:
                        with {how}:
                            pass
                except pep788.PythonFinalizationError:
                    pass
            for _ in range(4):
                threading.Thread(target=work, daemon=True).start()
            ready.wait()
            print("end")
        """).check()
        assert (result.out, result.err) == ("end\n", "")


def test_every_way_in_raises_after_shutdown_began(python):
    result = python("""
        import os, pep788
        class Late:
            def __init__(self):
                self.view = pep788.View.current()
            def __del__(self, os=os, pep788=pep788):
                for guard in pep788.guard(), self.view.guard(), pep788.View.main().guard():
                    try:
                        with guard:
                            os.write(1, b"entered\\n")
                    except pep788.PythonFinalizationError as error:
                        os.write(1, str(error).encode() + b"\\n")
                os.write(1, b"alive\\n" if self.view.alive else b"not alive\\n")
        late = Late()
        late.cycle = late
        assert late.view.alive
    """).check()
    lines = result.lines()
    assert len(lines) == 4, result.describe()
    assert lines[0].startswith("the interpreter is finalizing and gives no more guards; ")
    assert lines[1].startswith("interpreter 0 ") and lines[2].startswith("interpreter 0 ")
    assert lines[3] == "not alive"
    assert result.err == ""


# --- views ----------------------------------------------------------------------------------------------------


def test_views(python):
    result = python("""
        import pep788
        for view in pep788.View.current(), pep788.View.main():
            print(view, view.alive, pep788.guard_count())
            guard = view.guard()
            print(pep788.guard_count(), type(guard) is pep788.guard)
            del view
            with guard:
                print(pep788.guard_count())
            print(pep788.guard_count())
    """).check()
    assert result.lines() == ["<pep788.View of interpreter 0> True 0", "0 True", "1", "0"] * 2


# --- PythonFinalizationError ----------------------------------------------------------------------------------


def test_finalization_error_is_one_class_in_the_interpreter(python):
    result = python("""
        import builtins, sys, pep788
        first = pep788.PythonFinalizationError
        for name in [name for name in sys.modules if name.startswith("pep788")]:
            del sys.modules[name]
        import pep788 as again
        assert again is not pep788 or again.guard is not None
        print(again.PythonFinalizationError is first, issubclass(first, RuntimeError))
        print(first is getattr(builtins, "PythonFinalizationError", None), first.__name__)
    """).check()
    builtin = sys.version_info >= (3, 13)
    assert result.lines() == ["True True", f"{builtin} PythonFinalizationError"]


# --- subinterpreters ------------------------------------------------------------------------------------------

SUBINTERPRETERS = """
import sys
if sys.version_info >= (3, 13):
    import _interpreters as api
else:
    import _xxsubinterpreters as api

def create(legacy=False):
    if sys.version_info >= (3, 13):
        return api.create("legacy" if legacy else "isolated")
    return api.create(isolated=not legacy)

def run(interpreter, code):
    error = api.run_string(interpreter, code)
    assert error is None, error
"""

IN_SUB = """
import sys
sys.path[:0] = {path!r}
import pep788
with pep788.guard():
    inside = pep788.guard_count()
sub, main = pep788.View.current(), pep788.View.main()
with main.guard():
    across = pep788.guard_count()
print(inside, across, pep788.guard_count(), main, sub.alive, main.alive, repr(sub) != repr(main), flush=True)
"""

KINDS = pytest.mark.parametrize("kind", ["isolated", "legacy"])


def in_sub(code: str, kind: str, then: str = "") -> str:
    """A program whose main interpreter imports pep788 and runs `code` in a new subinterpreter."""
    return "\n".join(
        [
            SUBINTERPRETERS,
            "import pep788",
            f"sub = create(legacy={kind == 'legacy'})",
            f"run(sub, {code!r}.format(path=sys.path))",
            textwrap.dedent(then),
        ]
    )


@KINDS
def test_package_works_in_a_subinterpreter(python, kind):
    result = python(in_sub(IN_SUB, kind, "api.destroy(sub); print(pep788.guard_count())")).check()
    assert result.lines() == ["1 0 0 <pep788.View of interpreter 0> True True True", "0"]
    assert result.err == ""


def test_first_import_in_a_subinterpreter_run_by_another_thread_than_its_creator(python):
    """RED before on 3.9, 3.10 and 3.11: deadlock."""
    result = python(
        SUBINTERPRETERS
        + textwrap.dedent("""
        import threading
        sub = create(legacy=False)
        code = f"import sys; sys.path[:0] = {sys.path!r}\\nimport pep788\\nwith pep788.guard(): print('imported', flush=True)"
        thread = threading.Thread(target=run, args=(sub, code))
        thread.start()
        thread.join()
        api.destroy(sub)
    """)
    ).check()
    assert (result.out, result.err) == ("imported\n", "")


# 3.13+ runs each string in a thread state of its own (gh-109860): what it left entered ends with that one (R2).
LEFT_IN_SUB = 0 if sys.version_info >= (3, 13) else 1


@KINDS
def test_guard_of_main_taken_in_a_subinterpreter_counts_there(python, kind):
    hold = """
import sys; sys.path[:0] = {path!r}
import pep788
guard = pep788.View.main().guard()
guard.__enter__()
"""
    result = python(in_sub(hold, kind, "print(pep788.guard_count()); api.destroy(sub); print(pep788.guard_count())"))
    assert result.check().lines() == [str(LEFT_IN_SUB), "0"]
    assert result.err == ""


LEAK_IN_SUB = """
import sys; sys.path[:0] = {path!r}
import contextlib, pep788
own, of_main = pep788.guard(), pep788.View.main().guard()
own.__enter__()
stack = contextlib.ExitStack()
stack.enter_context(of_main)
"""
COUNT_IN_SUB = LEAK_IN_SUB + "assert pep788.guard_count() == 1\n"


@KINDS
def test_left_in_a_global_of_a_subinterpreter_that_is_destroyed(python, kind):
    result = python(in_sub(COUNT_IN_SUB, kind, "api.destroy(sub); print('end', pep788.guard_count())")).check()
    assert (result.out, result.err) == ("end 0\n", "")


@KINDS
def test_left_in_a_subinterpreter_by_a_thread_that_ended(python, kind):
    """3.9-3.12 run it in the thread state that also ends the interpreter: that is not the end of that one."""
    then = """
        import threading
        thread = threading.Thread(target=run, args=(sub, "import contextlib; left = pep788.guard(); left.__enter__()"))
        thread.start()
        thread.join()
        api.destroy(sub)
        print("end")
    """
    result = python(in_sub("import sys; sys.path[:0] = {path!r}\nimport pep788", kind, then)).check()
    assert (result.out, result.err) == ("end\n", "")


@KINDS
def test_left_in_a_global_of_a_subinterpreter_that_is_left_over(python, kind):
    # 3.9-3.11 end a left-over interpreter after the flag and say nothing more; the exit status stays 0.
    result = python(in_sub(COUNT_IN_SUB, kind, "print('end', pep788.guard_count(), flush=True)")).check()
    assert result.out == f"end {LEFT_IN_SUB}\n"


@KINDS
def test_left_in_a_subinterpreter_when_only_that_imported_us(python, kind):
    code = in_sub(COUNT_IN_SUB, kind, "print('end', flush=True)").replace("\nimport pep788\n", "\n", 1)
    result = python(code).check()
    assert result.out == "end\n"


@KINDS
def test_left_in_a_subinterpreter_by_an_atexit_callback(python, kind):
    """Registered before our own callback, so run after it."""
    late = f"run(sub, {LEAK_IN_SUB!r}.format(path=sys.path)); print('leaked', flush=True)"
    code = in_sub("import sys; sys.path[:0] = {path!r}\nimport pep788", kind)
    result = python(f"import atexit\natexit.register(lambda: exec({late!r}, globals()))\n" + code).check()
    assert result.out == "leaked\n", result.describe()


@KINDS
def test_main_waits_for_a_daemon_thread_in_a_subinterpreter(python, kind):
    """A thread of main that runs code in a subinterpreter and holds a guard there."""
    hold = """
import sys; sys.path[:0] = {path!r}
import os, time, pep788
def hold():
    with pep788.guard():
        os.write(entered, b"x")
        os.read(ending, 1)
        for _ in range(200):
            time.sleep(0.001)
        os.write(1, b"done\\n")
"""
    then = """
        import atexit, os, threading
        entered, ending = os.pipe(), os.pipe()
        atexit.register(os.write, ending[1], b"x")
        code = f"entered, ending = {entered[1]}, {ending[0]}\\nhold()"
        threading.Thread(target=run, args=(sub, code), daemon=True).start()
        os.read(entered[0], 1)
    """
    result = python(in_sub(hold, kind, then))
    assert not result.hung, result.describe()
    assert result.out == "done\n", result.describe()


@KINDS
def test_interpreters_come_and_go(python, kind):
    rounds = support.tries(10)
    result = python(
        SUBINTERPRETERS
        + textwrap.dedent(f"""
        import pep788
        for number in range({rounds}):
            sub = create(legacy={kind == "legacy"})
            run(sub, {IN_SUB!r}.format(path=sys.path))
            api.destroy(sub)
        print(pep788.guard_count())
    """)
    ).check()
    assert len(result.lines()) == rounds + 1
    assert result.err == ""


# --- fork -----------------------------------------------------------------------------------------------------

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

FORKING = """
import os, sys, threading, warnings, pep788
warnings.simplefilter("ignore", DeprecationWarning)     # 3.12+: fork in a process with threads
entered, go = threading.Event(), threading.Event()
def work():
    with pep788.guard():
        entered.set()
        go.wait()
def wait_for(pid):
    status = os.waitpid(pid, 0)[1]
    assert os.WIFEXITED(status), status
    return os.WEXITSTATUS(status)
threading.Thread(target=work, daemon=True).start()
entered.wait()
"""


@FORKS
def test_fork_child_is_not_held_by_the_parents_guards(python):
    result = python(
        FORKING
        + textwrap.dedent("""
        main_guard = pep788.guard()
        main_guard.__enter__()
        pid = os.fork()
        if pid == 0:
            print("child", pep788.guard_count(), flush=True)
            with pep788.guard():
                print("child", pep788.guard_count(), flush=True)
            main_guard.__exit__(None, None, None)
            print("child", pep788.guard_count(), flush=True)
            global_leak = pep788.guard()
            global_leak.__enter__()
            sys.exit(7)
        print("parent", wait_for(pid), pep788.guard_count())
        go.set()
    """)
    ).check()
    assert result.lines() == ["child 0", "child 1", "child 0", "parent 7 2"]
    assert result.err == ""


@FORKS
def test_fork_in_a_daemon_thread_inside_the_block(python):
    result = python("""
        import os, sys, threading, warnings, pep788
        warnings.simplefilter("ignore", DeprecationWarning)
        def work():
            with pep788.guard():
                pid = os.fork()
                if pid == 0:
                    with pep788.guard():
                        os.write(1, b"child\\n")
                else:
                    status = os.waitpid(pid, 0)[1]
                    os.write(1, b"parent %d\\n" % status)
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join()
    """).check()
    assert result.lines() == ["child", "parent 0"]


@FORKS
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing_children_end(python, tmp_path, method):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import multiprocessing, threading, warnings, pep788
        warnings.simplefilter("ignore", DeprecationWarning)
        def child(queue):
            global left
            left = pep788.guard()
            left.__enter__()
            queue.put(pep788.guard_count())
        if __name__ == "__main__":
            context = multiprocessing.get_context({method!r})
            entered, go = threading.Event(), threading.Event()
            def work():
                with pep788.guard():
                    entered.set()
                    go.wait()
            threading.Thread(target=work, daemon=True).start()
            entered.wait()
            queue = context.Queue()
            children = [context.Process(target=child, args=(queue,)) for _ in range(3)]
            for process in children:
                process.start()
            print(sorted(queue.get() for _ in children))
            for process in children:
                process.join()
            print([process.exitcode for process in children])
            go.set()
    """)
    )
    result = python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')").check()
    assert result.lines() == ["[1, 1, 1]", "[0, 0, 0]"]
    assert result.err == ""


# --- what is shipped ------------------------------------------------------------------------------------------


def test_versions_agree(python):
    result = python("import pep788, pep788._core as core; print(pep788.__version__, core.HEADER_VERSION)").check()
    project = re.search(r'^version = "(.+)"$', (support.REPO / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert result.out.split() == [project.group(1)] * 2


def test_include_folder_holds_the_header(python):
    result = python("import os, pep788; print(os.listdir(pep788.get_include()))").check()
    assert "'pep788.h'" in result.out


def test_registers_under_its_own_name(python):
    result = python("""
        import pep788, pep788._core as core
        print(core.modules())
        with pep788.guard():
            print(core.modules())
    """).check()
    assert result.lines() == ["[('pep788', 0)]", "[('pep788', 1)]"]


def test_import_starts_nothing(python):
    """N1: no thread, no signal handler, few modules."""
    result = python("""
        import signal, sys, threading
        def look():
            return threading.active_count(), [signal.getsignal(n) for n in signal.valid_signals()]
        before, modules = look(), set(sys.modules)
        import pep788
        print(look() == before, sorted(set(sys.modules) - modules - {"atexit"}))
    """).check()
    assert result.out == "True ['pep788', 'pep788._core']\n"


def test_signatures_and_docs(python):
    result = python("""
        import inspect, sys, pep788
        if sys.version_info >= (3, 10):     # 3.9 drops the signature of classes made from a PyType_Spec
            assert str(inspect.signature(pep788.guard)) == "()"
        assert pep788.guard.__doc__ and pep788.View.__doc__
        for thing in pep788.View.current, pep788.View.main, pep788.View.guard, pep788.guard_count:
            assert thing.__doc__
            print(inspect.signature(thing))
        print(pep788.guard.__module__, pep788.View.__module__)
    """).check()
    assert result.lines() == ["()", "()", "(self, /)", "()", "pep788 pep788"]


def test_no_reference_is_lost(python):
    """Runs on debug builds, which can count."""
    if not support.DEBUG_BUILD:
        pytest.skip("needs sys.gettotalrefcount of a debug build")
    result = python("""
        import gc, sys, threading, pep788
        def use():
            with pep788.guard(), pep788.View.main().guard():
                pep788.View.current().alive
            try:
                pep788.guard().__exit__(None, None, None)
            except RuntimeError:
                pass
            left = pep788.guard()
            thread = threading.Thread(target=left.__enter__)
            thread.start()
            thread.join()
        def total():
            gc.collect()
            return sys.gettotalrefcount()
        for _ in range(20):
            use()
        before = total()
        for _ in range(500):
            use()
        print(total() - before)
    """).check()
    assert int(result.out) < 250, result.out


# --- sources --------------------------------------------------------------------------------------------------

SOURCES = sorted((support.REPO / "src" / "pep788").rglob("*.py"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_sources_are_python_3_9(source):
    ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 9))


def test_stub_names_what_the_module_has(python):
    stub = ast.parse((support.REPO / "src" / "pep788" / "_core.pyi").read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(stub) if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    names |= {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    public = {name for name in names if not name.startswith("_")}
    classes = {
        node.name: {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
        for node in stub.body
        if isinstance(node, ast.ClassDef)
    }
    result = python("""
        import json, pep788._core as core
        own = {name for name in vars(core) if not name.startswith("_")}
        members = {n: [m for m in vars(getattr(core, n)) if m[:2] != "__"] for n in ("guard", "View")}
        print(json.dumps([sorted(own), members]))
    """).check()
    own, members = json.loads(result.out)
    assert set(own) == public - {"current", "main", "alive"}
    for name, found in members.items():
        assert set(found) == {member for member in classes[name] if member[:2] != "__"}


def test_typing(package, tmp_path):
    pytest.importorskip("mypy", reason="mypy is in the dev extra; `make lint` runs this test")
    user = tmp_path / "user.py"
    user.write_text(
        textwrap.dedent("""
        import ctypes
        from typing import Optional
        import pep788

        def count() -> int:
            with pep788.guard():
                return pep788.guard_count()

        def through_view(view: pep788.View) -> Optional[str]:
            manager: pep788.guard = view.guard()
            try:
                with manager:
                    return pep788.get_include()
            except pep788.PythonFinalizationError as error:
                caught: RuntimeError = error
                return str(caught)

        handler = ctypes.CFUNCTYPE(ctypes.c_int)(count)
        handler = pep788.callback(handler, on_closed=0, keep_thread_state=True)

        pep788.watchdog(10, abort_after=60.0)
        pep788.watchdog(None)
        pep788.watchdog("10")  # type: ignore[arg-type]
        alive: bool = pep788.View.main().alive
        wrong: int = pep788.View.current()  # type: ignore[assignment]
    """)
    )
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(user)]
    result = support.run_child(mypy, path=[package], env={"MYPYPATH": str(package)}, timeout=300)
    assert result.returncode == 0, result.describe()


def test_a_package_that_was_not_built_says_so(tmp_path):
    """A checkout on the path, or an installation for another version."""
    folder = tmp_path / "pep788"
    folder.mkdir()
    (folder / "__init__.py").write_text((support.REPO / "src" / "pep788" / "__init__.py").read_text())
    result = support.run_child("import pep788", path=[tmp_path]).check(1)
    assert f"ImportError: {folder / '__init__.py'} was not built for this Python: python -m pip install" in result.err
