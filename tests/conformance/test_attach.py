"""E1-E8: Ensure and Release, in every state that a thread can be in."""

from __future__ import annotations

import random
import signal
import sys
from typing import List, Tuple

import pytest

import support
from g_tools import HERE, child, embed, in_order, needs_own_gil, rebinds

NEW = ["new_interp", pytest.param("new_own_gil", marks=needs_own_gil)]


def foreign(lines: str, code: str = "") -> support.Result:
    """Run `lines` on a foreign thread with a guard `g` and a view `v` of the main interpreter; it logs "done"."""
    return child(
        f"""
import atexit, probe, threading, contextvars
{code}
probe.do('''
    view_current v
    guard_current g
    spawn foreign
        detached
        {lines}
        detached
        log done
    end
''')
probe.join("foreign")
probe.do("close g")
"""
    )


def attached(lines: str, code: str = "") -> support.Result:
    """The same on the main thread, attached."""
    return child(
        f"""
import probe, threading, contextvars
{code}
probe.do('''
    view_current v
    guard_current g
    current before
    {lines}
    current after
    same before after
    log done
    close g
''')
"""
    )


# --- E1: already attached -----------------------------------------------------------------------------------------


def test_E1_nothing_new_is_created_on_a_python_thread() -> None:
    lines = """
        ensure t1 g
        some t1
        current inner
        same inner before
        ensure_view t2 v
        some t2
        current inner
        same inner before
        release t2
        release t1
    """
    in_order(attached(lines), "done")


def test_E1_nests_to_any_depth() -> None:
    depth = 150
    down = "\n".join(f"ensure_view t{n} v" if n % 2 else f"ensure t{n} g" for n in range(depth))
    up = "\n".join(f"current inner\nsame inner first\nrelease t{n}" for n in reversed(range(depth)))
    in_order(foreign(f"ensure outermost g\ncurrent first\n{down}\nrun 1 + 1\n{up}\nrelease outermost"), "done")
    in_order(attached(f"current first\n{down}\nrun 1 + 1\n{up}"), "done")


def test_E1_inside_PyGILState_Ensure() -> None:
    lines = """
        gil_ensure s
        current outer
        ensure t g
        current inner
        same outer inner
        run 1 + 1
        release t
        current again
        same outer again
        ensure_view t v
        current inner
        same outer inner
        release t
        gil_release s
    """
    in_order(foreign(lines), "done")


def test_E1_thread_locals_are_seen_through_nested_attaches() -> None:
    code = "local = threading.local()"
    lines = """
        ensure t0 g
        run local.x = 1
        ensure t1 g
        run assert local.x == 1; local.y = 2
        release t1
        run assert local.y == 2
        release t0
    """
    in_order(foreign(lines, code), "done")


def test_E1_a_view_still_guards_when_already_attached() -> None:
    """EnsureFromView holds its own guard, whatever it found."""
    result = child(
        """
        import atexit, probe
        probe.mark()
        def callback():
            probe.log("atexit")
            probe.set("atexit")
        atexit.register(callback)
        probe.do('''
            view_current v
            spawn foreign
                gil_ensure s
                ensure_view t v
                set attached
                save d
                await atexit
                until_main_sleeps
                never finalized 50
                restore d
                run import probe; probe.log("released")
                release t
                save d
            end
        ''')
        probe.wait("attached")
        """
    )
    in_order(result, "atexit", "released", "finalized")


# --- E2: the thread's own detached state is used again ------------------------------------------------------------

KEPT_CODE = """
local = threading.local()
variable = contextvars.ContextVar("variable", default=None)
"""


@pytest.mark.parametrize("how", ["ensure t g", "ensure_view t v"])
def test_E2_detached_state_is_attached_again_with_its_locals(how: str) -> None:
    lines = f"""
        gil_ensure s
        current own
        run local.x = "kept"; variable.set("also kept")
        save d
        repeat 3
            this bound
            same bound own
            {how}
            some t
            current inner
            same inner own
            run assert local.x == "kept" and variable.get() == "also kept"
            run local.x = "kept"; variable.set("also kept")
            release t
            detached
            this bound
            same bound own
        end
        restore d
        current inner
        same inner own
        run assert local.x == "kept" and variable.get() == "also kept"
        gil_release s
    """
    in_order(foreign(lines, KEPT_CODE), "done")


def test_E2_main_thread_in_allow_threads() -> None:
    """A callback that C makes on a thread of Python while it is detached."""
    lines = """
        run local.x = 1
        save d
        ensure t g
        current inner
        same inner before
        run assert local.x == 1
        release t
        detached
        ensure_view t v
        current inner
        same inner before
        release t
        restore d
    """
    in_order(attached(lines, KEPT_CODE), "done")


def test_E2_python_thread_in_allow_threads() -> None:
    result = child(
        """
        import probe, threading
        local = threading.local()
        def body():
            local.x = threading.get_ident()
            globals()["check"] = lambda: probe.log(str(local.x == threading.get_ident()))
            probe.store("check", check)
            probe.do('''
                current before
                save d
                ensure_view t v
                current inner
                same inner before
                call check
                release t
                restore d
            ''')
        probe.do("view_current v")
        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        probe.log("done")
        """
    )
    in_order(result, "True", "done")


def test_E2_state_made_by_PyThreadState_New() -> None:
    code = KEPT_CODE + "probe.do('interp i')"
    lines = """
        new_state own i
        this bound
        same bound own
        restore own
        run local.x = 1
        save own
        ensure t g
        current inner
        same inner own
        run assert local.x == 1
        release t
        detached
        restore own
        run assert local.x == 1
        delete_current
        this bound
        null bound
    """
    in_order(foreign(lines, code), "done")


# --- E3: a fresh state, and its end -------------------------------------------------------------------------------


def test_E3_fresh_state_is_deleted_by_release() -> None:
    code = """
local = threading.local()
class Value:
    def __init__(self, name): self.name = name
    def __del__(self): probe.log("gone " + self.name)
"""
    lines = """
        this before
        null before
        ensure t0 g
        run assert not hasattr(local, "x"); local.x = Value("first")
        ensure t1 g
        release t1
        run assert local.x.name == "first"; probe.log("still there")
        release t0
        log released
        this after
        null after
        ensure_view t0 v
        run assert not hasattr(local, "x"); local.x = Value("second")
        release t0
        log released again
    """
    result = foreign(lines, code)
    in_order(result, "still there", "gone first", "released", "gone second", "released again", "done")


def test_E3_no_states_pile_up() -> None:
    """Up to 3.13 Py_EndInterpreter is fatal if one is left; 500 attachments leave none."""
    script = """
        init
        current main
        new_interp sub
        view_current v
        guard_current g
        save sub
        spawn foreign
            repeat 500
                ensure t g
                release t
                ensure_view t v
                release t
            end
            close g
        end
        join foreign
        restore sub
        end_interp main
        finalize
        log done
    """
    in_order(embed(script), "done")


NATIVE_LEAKS_GUARD = "3.15.2 never closes the guard of an EnsureFromView in a destructor that another Release runs"


@pytest.mark.parametrize(
    "inner", ["ensure t2 g", pytest.param("ensure_view t2 v", marks=support.ours_only(NATIVE_LEAKS_GUARD))]
)
def test_E3_destructors_run_by_release_may_attach(inner: str) -> None:
    script = f"current c1\n{inner}\ncurrent c2\nsame c1 c2\nguard_current h\nclose h\nrelease t2"
    code = f"""
local = threading.local()
script = {script!r}
class Value:
    def __del__(self):
        probe.do(script)
        probe.log("destructor")
"""
    in_order(foreign("ensure t g\nrun local.x = Value()\nrelease t\nlog released", code), "destructor", "released")


def test_E3_destructors_run_by_release_may_use_PyGILState() -> None:
    code = """
local = threading.local()
class Value:
    def __del__(self):
        probe.do("current c1\\ngil_ensure s2\\ncurrent c2\\nsame c1 c2\\ngil_release s2")
        probe.do("save d2\\ngil_ensure s2\\ngil_release s2\\nrestore d2")
        probe.log("destructor")
"""
    in_order(foreign("ensure t g\nrun local.x = Value()\nrelease t\nlog released", code), "destructor", "released")


def test_E3_destructors_of_destructors() -> None:
    """A destructor that puts a new value with a destructor where the dying one was."""
    code = """
local = threading.local()
class Value:
    def __init__(self, left): self.left = left
    def __del__(self):
        probe.log(f"left {self.left}")
        probe.do("ensure_view t2 v")
        if self.left:
            Value(self.left - 1)
        probe.do("release t2")
"""
    result = foreign("ensure_view t v\nrun local.x = Value(2)\nrelease t\nlog released", code)
    in_order(result, "left 2", "left 1", "left 0", "released", "done")


def test_E3_guard_outlives_the_destructors() -> None:
    """The last guard is that of the token: destructors must still be covered by it."""
    result = child(
        """
        import atexit, probe, threading
        probe.mark()
        local = threading.local()
        class Value:
            def __del__(self, do=probe.do, log=probe.log):
                log("destructor")
                do("save d\\nuntil_main_sleeps\\nnever finalized 100\\nrestore d")
                log("destructor done")
        atexit.register(probe.set, "atexit")
        probe.do('''
            view_current v
            spawn foreign
                ensure_view t v
                run local.x = Value()
                save d0
                set ready
                await atexit
                restore d0
                release t
            end
        ''')
        probe.wait("ready")
        """
    )
    in_order(result, "destructor", "destructor done", "finalized")


# --- E4: from one interpreter into another ------------------------------------------------------------------------


def between(new: str, lines: str) -> support.Result:
    """Run `lines` on the main thread, attached to subinterpreter `sub`; gm, vm and gs, vs are of main and sub."""
    return embed(
        f"""
        init
        current main
        interp main_interp
        view_current vm
        guard_current gm
        {new} sub
        interp sub_interp
        view_current vs
        guard_current gs
        {lines}
        current now
        same now sub
        close gs
        end_interp main
        close gm
        finalize
        log done
    """
    )


@pytest.mark.parametrize("how", ["ensure t gm", "ensure_view t vm"])
@pytest.mark.parametrize("new", NEW)
def test_E4_ensure_from_another_interpreter_and_back(new: str, how: str) -> None:
    lines = f"""
        run import probe; where = "sub"
        repeat 3
            {how}
            same t sub
            interp i
            same i main_interp
            current inner
            differ inner sub
            run import probe; assert "where" not in globals(); probe.log("in main")
            release t
            current inner
            same inner sub
            interp i
            same i sub_interp
            run assert where == "sub"
        end
    """
    result = between(new, lines)
    assert result.check().lines() == ["in main"] * 3 + ["done"], result.describe()


@pytest.mark.parametrize("new", NEW)
def test_E4_from_main_into_the_subinterpreter(new: str) -> None:
    lines = """
        save sub
        restore main
        ensure t gs
        same t main
        interp i
        same i sub_interp
        run import probe; probe.log("in sub")
        ensure t2 gs
        current c1
        release t2
        current c2
        same c1 c2
        release t
        current inner
        same inner main
        save main
        restore sub
    """
    in_order(between(new, lines), "in sub", "done")


@pytest.mark.parametrize("new", NEW)
def test_E4_nested_there_and_back_on_a_foreign_thread(new: str) -> None:
    lines = """
        save sub
        spawn foreign
            repeat 20
                ensure t1 gs
                current c1
                ensure t2 gm
                same t2 c1
                current c2
                ensure t3 gs
                same t3 c2
                current c3
                run import probe, sys
                ensure_view t4 vm
                same t4 c3
                release t4
                current again
                same again c3
                release t3
                current again
                same again c2
                release t2
                current again
                same again c1
                interp i
                same i sub_interp
                release t1
            end
            log foreign done
        end
        join foreign
        restore sub
    """
    in_order(between(new, lines), "foreign done", "done")


@pytest.mark.parametrize("new", NEW)
def test_E4_other_threads_run_meanwhile(new: str) -> None:
    """Detaching from one interpreter while attached to another must not leave the first one's GIL held."""
    lines = """
        spawn other
            ensure_view o vs
            some o
            run import probe; probe.log("other ran in sub")
            release o
            set other_ran
        end
        ensure t gm
        save d
        await other_ran
        restore d
        release t
        join other
    """
    in_order(between(new, lines), "other ran in sub", "done")


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_E4_from_python_made_subinterpreters(kind: str) -> None:
    result = child(
        f'''
        import probe
        from subinterpreters import create, destroy, run_string
        probe.do("view_current vm\\ninterp main_interp")
        sub = create("{kind}")
        script = """
            current c
            interp sub_interp
            ensure_view t vm
            same t c
            interp i
            same i main_interp
            run import probe; probe.log("in main")
            release t
            current again
            same again c
            interp i
            same i sub_interp
        """
        run_string(sub, f"import probe; probe.do({{script!r}})")
        destroy(sub)
        probe.log("done")
        '''
    )
    in_order(result, "in main", "done")


# --- E5: well-bracketed nesting -----------------------------------------------------------------------------------


def nest(rng: random.Random, steps: int, *, start_attached: bool, prefix: str = "x") -> List[str]:
    """A random well-bracketed sequence; every bracket checks on its end that all is as on its begin."""
    lines: List[str] = []
    stack: List[Tuple[List[str], bool]] = []
    attached = start_attached

    def close() -> None:
        nonlocal attached
        closing, attached = stack.pop()
        lines.extend(closing)

    for _ in range(steps):
        if stack and (len(stack) > 12 or rng.random() < 0.45):
            close()
            continue
        kinds = ["ensure", "ensure_view", "gil_ensure"] + (["save"] if attached else [])
        kind, name = rng.choice(kinds), f"{prefix}{len(stack)}"
        state = "current" if attached else "this"
        check = [f"{state} z{name}", f"same z{name} y{name}"] + ([] if attached else ["detached"])
        lines.append(f"{state} y{name}")
        if kind == "save":
            lines += [f"save {name}", "detached"]
            stack.append(([f"restore {name}", *check], attached))
            attached = False
        else:
            source = {"ensure": " g", "ensure_view": " v", "gil_ensure": ""}[kind]
            end = "gil_release" if kind == "gil_ensure" else "release"
            lines += [f"{kind} {name}{source}", f"some {name}", "run sum(range(10))"]
            stack.append(([f"{end} {name}", *check], attached))
            attached = True
    while stack:
        close()
    return lines


@pytest.mark.parametrize("seed", range(10))
def test_E5_random_nesting_on_a_foreign_thread(seed: int) -> None:
    lines = nest(random.Random(seed), 150, start_attached=False)
    in_order(foreign("\n".join(lines)), "done")


@pytest.mark.parametrize("seed", range(5))
def test_E5_random_nesting_on_a_python_thread(seed: int) -> None:
    lines = nest(random.Random(100 + seed), 150, start_attached=True)
    in_order(attached("\n".join(lines)), "done")


def test_E5_random_nesting_on_four_threads_at_once() -> None:
    spawns = ""
    for n in range(4):
        lines = nest(random.Random(200 + n), 150, start_attached=False, prefix=f"w{n}_")
        spawns += "\n".join(["", f"spawn worker{n}", *lines, "end"])
    result = child(
        f"""
import probe
probe.do('''view_current v\nguard_current g\n{spawns}''')
for n in range(4):
    probe.join(f"worker{{n}}")
probe.do("close g")
probe.log("done")
"""
    )
    in_order(result, "done")


def test_E5_PyGILState_inside_Ensure_inside_PyGILState() -> None:
    lines = """
        gil_ensure s1
        current own
        save d1
        ensure t g
        gil_ensure s2
        current inner
        same inner own
        save d2
        ensure_view t2 v
        current inner
        same inner own
        gil_ensure s3
        gil_release s3
        release t2
        detached
        restore d2
        gil_release s2
        release t
        detached
        restore d1
        gil_release s1
    """
    in_order(foreign(lines), "done")


def test_E5_python_code_that_detaches_inside_ensure() -> None:
    """Real Py_BEGIN_ALLOW_THREADS of the standard library, and a callback from there."""
    code = """
import os, time
def work():
    r, w = os.pipe()
    thread = threading.Thread(target=lambda: os.write(w, b"x"))
    thread.start()
    assert os.read(r, 1) == b"x"
    thread.join()
    probe.do("save d\\nensure_view t2 v\\nrun 1 + 1\\nrelease t2\\nrestore d")
    probe.log("worked")
probe.store("work", work)
"""
    in_order(foreign("ensure t g\ncall work\nrelease t", code), "worked", "done")


@rebinds
@pytest.mark.parametrize("new", NEW)
def test_E5_PyGILState_uses_what_Ensure_attached(new: str) -> None:
    lines = """
        save sub
        spawn foreign
            ensure t gs
            current c1
            gil_ensure s
            current c2
            same c1 c2
            interp i
            same i sub_interp
            save d
            gil_ensure s2
            current c2
            same c1 c2
            gil_release s2
            restore d
            gil_release s
            release t
            ensure t gm
            gil_ensure s
            interp i
            same i main_interp
            gil_release s
            release t
            log foreign done
        end
        join foreign
        restore sub
    """
    in_order(between(new, lines), "foreign done", "done")


# --- E6: the state bound to the thread ----------------------------------------------------------------------------


def test_E6_bound_while_attached_and_restored_after() -> None:
    lines = """
        this before
        null before
        ensure t g
        current c
        this inner
        same inner c
        ensure_view t2 v
        this inner
        same inner c
        release t2
        this inner
        same inner c
        release t
        this after
        null after
        gil_ensure s
        current own
        ensure t g
        this inner
        same inner own
        release t
        save d
        ensure t g
        this inner
        same inner own
        release t
        this inner
        same inner own
        restore d
        gil_release s
        this after
        null after
    """
    in_order(foreign(lines), "done")


@rebinds
@pytest.mark.parametrize("new", NEW)
def test_E6_across_interpreters(new: str) -> None:
    lines = """
        this before
        ensure t gm
        current c
        this bound
        same bound c
        ensure t2 gs
        current c2
        this bound
        same bound c2
        release t2
        this bound
        same bound c
        release t
        this bound
        same bound before
    """
    in_order(between(new, lines), "done")


@pytest.mark.parametrize("new", NEW)
def test_E6_across_interpreters_bound_state_is_what_it_was(new: str) -> None:
    """What holds also where nothing can rebind it (3.9-3.11 without pthread keys)."""
    lines = """
        save sub
        spawn foreign
            this before
            null before
            ensure t gs
            ensure t2 gm
            release t2
            release t
            this after
            null after
        end
        join foreign
        restore sub
        this before
        ensure t gm
        release t
        this after
        same before after
    """
    in_order(between(new, lines), "done")


@support.ours_only("3.15.2 leaves no state bound to the thread once one of another interpreter is deleted")
@pytest.mark.parametrize("new", NEW)
def test_E6_detached_state_stays_bound_after_another_interpreter(new: str) -> None:
    lines = """
        save sub
        spawn foreign
            gil_ensure s
            current own
            save d
            ensure t gs
            interp i
            same i sub_interp
            release t
            detached
            this after
            same after own
            restore d
            current again
            same again own
            gil_release s
        end
        join foreign
        restore sub
    """
    in_order(between(new, lines), "done")


# --- E7: never killed, never hung -----------------------------------------------------------------------------------

CPP_FRAMES = """
import os, sys, atexit, probe
sys.path.insert(0, {directory!r})
r, w = os.pipe()
import frames
probe.mark({patience})
outside = dict(probe=probe)  # C++ keeps finish for ever, which must not keep the module __main__
exec("def finish(): probe.log('python ran'); probe.set('survived')", outside)
frames.start(r, {guarded}, outside["finish"])
class AtTeardown:
    def __del__(self, write=os.write, w=w, log=probe.log):
        log("teardown")
        write(w, b"x")
"""


def frames_directory() -> str:
    # Forced unwinding through noexcept is std::terminate; the warning that says so is what is tested here.
    return str(support.build_extension("frames", [HERE / "frames.cpp"], language="c++", std="c++17"))


def test_E7_cpp_frames_live_on_through_allow_threads() -> None:
    code = CPP_FRAMES.format(directory=frames_directory(), guarded=True, patience=0)
    code += """
probe.do('''
    spawn finisher
        await atexit
        until_main_sleeps
        never finalized 100
        set write
    end
''')
atexit.register(lambda: (probe.log("atexit"), probe.set("atexit")))
import threading
threading.Thread(target=lambda: (probe.wait("write"), os.write(w, b"x")), daemon=True).start()
"""
    in_order(child(code), "attached", "atexit", "inner destructor", "python ran", "finalized")


def test_E7_red_cpp_frames_without_a_guard() -> None:
    """PyGILState_Ensure up to 3.14, and on 3.15 as well: at Py_END_ALLOW_THREADS the thread is killed or hung."""
    code = CPP_FRAMES.format(directory=frames_directory(), guarded=False, patience=1000)
    code += "kept = AtTeardown()\n"
    result = child(code, timeout=30)
    lines = result.lines()
    assert "teardown" in lines and "python ran" not in lines, result.describe()


def test_E7_red_without_a_guard_the_thread_is_killed_or_hung() -> None:
    """The same states and the same moments as below, by PyGILState_Ensure."""
    result = child(
        """
        import atexit, probe
        probe.mark(1000)
        probe.do('''
            spawn foreign
                gil_ensure s
                set attached
                save d
                await teardown
                restore d
                log still runs Python
                set survived
            end
        ''')
        class AtTeardown:
            def __del__(self, set=probe.set, log=probe.log):
                log("teardown")
                set("teardown")
        kept = AtTeardown()
        probe.wait("attached")
        """
    )
    lines = result.lines()
    assert "teardown" in lines and "still runs Python" not in lines, result.describe()


def through_the_end(lines: str) -> support.Result:
    """A foreign thread that is inside an Ensure when the interpreter begins to end; it runs `lines` after that."""
    return child(
        f"""
        import atexit, probe
        probe.mark()
        probe.do('''
            view_current v
            spawn foreign
                ensure_view t v
                some t
                set attached
                save d
                await atexit
                until_main_sleeps
                restore d
                {lines}
                log releasing
                release t
            end
        ''')
        atexit.register(probe.set, "atexit")
        atexit.register(probe.log, "atexit")
        probe.wait("attached")
        """
    )


def test_E7_between_bytecodes() -> None:
    lines = """
                run for n in range(100000): str(n)
                run import threading; lock = threading.Lock(); [lock.acquire() and lock.release() for _ in range(99)]
    """
    in_order(through_the_end(lines), "atexit", "releasing", "finalized")


def test_E7_allow_threads_again_and_again() -> None:
    lines = """
                repeat 200
                    save d
                    yield
                    restore d
                end
                run import time, os; time.sleep(0); os.getpid(); open(os.devnull).close()
                gil_ensure s
                save d2
                never finalized 20
                restore d2
                gil_release s
    """
    in_order(through_the_end(lines), "atexit", "releasing", "finalized")


def test_E7_nested_tokens_are_covered_to_the_last_release() -> None:
    lines = """
                ensure_view t2 v
                some t2
                save d2
                never finalized 20
                restore d2
                release t2
                save d
                never finalized 50
                restore d
                run 1 + 1
    """
    in_order(through_the_end(lines), "atexit", "releasing", "finalized")


@pytest.mark.parametrize("new", NEW)
def test_E7_subinterpreter(new: str) -> None:
    script = f"""
        init
        current main
        {new} sub
        view_current v
        run import atexit, probe; atexit.register(probe.set, "atexit"); atexit.register(probe.log, "atexit")
        spawn foreign
            ensure_view t v
            save d
            set attached
            await atexit
            until_main_sleeps
            never sub_ended 50
            restore d
            run import probe, colorsys; sum(range(10000)); probe.log("ran")
            release t
        end
        save sub
        await attached
        restore sub
        end_interp main
        set sub_ended
        log ended
        join foreign
        finalize
    """
    in_order(embed(script), "atexit", "ran", "ended")


# --- E8: failure changes nothing ------------------------------------------------------------------------------------


def test_E8_failed_ensure_leaves_a_foreign_thread_as_it_was() -> None:
    script = """
        view_main v
        init
        spawn foreign
            await after
            repeat 3
                ensure_view t v
                null t
                detached
                this bound
                null bound
            end
            set tried
            await again
            ensure_view t v
            some t
            run import probe; probe.log("attached after all")
            release t
            set done
        end
        finalize
        set after
        await tried
        init
        set again
        save d
        await done
        restore d
        finalize
        join foreign
        log done
    """
    in_order(embed(script), "attached after all", "done")


@pytest.mark.parametrize("new", NEW)
def test_E8_failed_ensure_leaves_an_attached_thread_as_it_was(new: str) -> None:
    script = f"""
        init
        current main
        {new} sub
        view_current v
        end_interp main
        this bound
        ensure_view t v
        null t
        no_error
        current again
        same again main
        this bound_after
        same bound bound_after
        guard g v
        null g
        no_error
        run assert True
        save d
        ensure_view t v
        null t
        detached
        restore d
        finalize
        log done
    """
    in_order(embed(script), "done")


def test_E8_failure_does_not_touch_a_raised_exception() -> None:
    """While C unwinds with an exception set, failing functions neither clear nor replace it."""
    script = """
        init
        current main
        new_interp sub
        view_current v
        end_interp main
        raise_lookup_error
        guard g v
        null g
        ensure_view t v
        null t
        caught_lookup_error
        finalize
        log done
    """
    in_order(embed(script), "done")


def test_E8_after_the_end_the_thread_does_other_things() -> None:
    """During teardown: the refused thread gives up and finishes its own work; the process ends normally."""
    result = child(
        """
        import probe
        probe.mark()
        class AtTeardown:
            def __del__(self, set=probe.set, join=probe.join):
                set("teardown")
                join("foreign")
        probe.do('''
            view_current v
            spawn foreign
                await teardown
                ensure_view t v
                null t
                detached
                log went on
            end
        ''')
        kept = AtTeardown()
        """
    )
    in_order(result, "went on", "finalized")


# --- the fatal error ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["attached", "foreign"])
def test_E1_releasing_more_often_than_ensuring_is_fatal(where: str) -> None:
    lines = "ensure t g\nrelease t\nrelease t"
    result = foreign(lines) if where == "foreign" else attached(lines)
    # Py_FatalError itself crashes on 3.12 and 3.13, after its message, on a thread that has no thread state.
    crashes = where == "foreign" and (3, 12) <= sys.version_info < (3, 14)
    assert result.signal == (signal.SIGSEGV if crashes else signal.SIGABRT), result.describe()
    assert "Fatal Python error" in result.err and "done" not in result.lines(), result.describe()
