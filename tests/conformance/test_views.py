"""V1-V3: a view is safe at any time, keeps nothing alive, and never mistakes one interpreter for another."""

from __future__ import annotations

import re

import pytest

import support
from g_tools import child, embed, in_order, needs_own_gil

NEW = ["new_interp", pytest.param("new_own_gil", marks=needs_own_gil)]

RACERS = "".join(
    f"""
    spawn racer{n}
        await start
        {operation} v ended 20
    end"""
    for n, operation in enumerate(["race", "race_ensure", "race", "race_ensure"])
)
JOIN_RACERS = "\n".join(f"join racer{n}" for n in range(4))


def raced(script: str) -> None:
    """Run it; guards must have been given, or there was no race. That they are refused after it is in the script."""
    result = embed(script, timeout=300).check()
    tally = re.fullmatch(r"given (\d+) refused (\d+)", result.lines()[-1])
    assert tally and int(tally[1]), result.describe()


AWAIT_GIVEN = """save sub
            await given
            restore sub"""

# The race is on before the callback returns: here a guard must be given (G5), so this cannot hang.
START_IN_CALLBACK = """run import atexit, probe
            run atexit.register(lambda: (probe.set("start"), probe.wait("given")))"""


# --- V1: keeps nothing alive, usable at any time ------------------------------------------------------------------


def test_V1_views_do_not_keep_the_interpreter_alive() -> None:
    result = child(
        """
        import probe
        probe.mark()
        for n in range(50):
            probe.do(f"view_main m{n}\\nview_current c{n}")
        probe.do('''
            spawn owner
                view_main mine
                set owns
                await never
            end
        ''')
        probe.wait("owns")
        """
    )
    in_order(result, "finalized")


def test_V1_one_view_serves_many_guards_and_stays_valid() -> None:
    script = """
        init
        view_current v
        guard g0 v
        guard g1 v
        some g0
        some g1
        close g0
        guard g2 v
        some g2
        close_view v
        # The guards do not need the view they came from.
        ensure t g1
        release t
        close g1
        close g2
        finalize
        log done
    """
    in_order(embed(script), "done")


def test_V1_main_view_before_and_after_the_interpreter() -> None:
    script = """
        view_main v
        view_main unused
        close_view unused
        spawn before
            view_main mine
            guard g mine
            null g
            ensure_view t mine
            null t
            close_view mine
        end
        join before
        refused v 3
        init
        guard g v
        some g
        ensure t g
        release t
        close g
        view_current also
        finalize
        refused v 3
        refused also 3
        spawn after
            view_main late
            refused late 3
            refused v 3
            close_view late
            close_view also
        end
        join after
        close_view v
        log done
    """
    in_order(embed(script), "done")


def test_V1_main_view_alone_attaches_a_foreign_thread() -> None:
    """FromMain on a thread that has no thread state, into an interpreter that did nothing but import the module."""
    result = child(
        """
        import probe
        probe.do('''
            spawn foreign
                view_main v
                ensure_view t v
                some t
                run import probe; probe.log("attached")
                release t
                close_view v
                set done
            end
        ''')
        probe.wait("done")
        """
    )
    in_order(result, "attached")


def test_V1_created_and_closed_on_different_threads() -> None:
    script = """
        init
        view_current made_attached
        view_current kept
        spawn foreign
            view_main made_detached
            guard g made_attached
            some g
            close g
            close_view made_attached
            set made
            await finalized
            refused kept 10
            close_view kept
        end
        await made
        guard g made_detached
        some g
        close g
        close_view made_detached
        finalize
        join foreign
        log done
    """
    in_order(embed(script), "done")


@pytest.mark.parametrize("new", NEW)
def test_V1_view_of_a_living_subinterpreter_from_everywhere(new: str) -> None:
    script = f"""
        init
        current main
        interp main_interp
        {new} sub
        interp sub_interp
        view_current v
        save sub
        restore main
        # attached to another interpreter
        guard g v
        some g
        close g
        save main
        # detached
        spawn foreign
            ensure_view t v
            some t
            interp i
            same i sub_interp
            release t
        end
        join foreign
        restore sub
        end_interp main
        refused v 5
        close_view v
        finalize
        log done
    """
    in_order(embed(script), "done")


# --- V2: never another interpreter --------------------------------------------------------------------------------


@pytest.mark.parametrize("new", NEW)
def test_V2_gone_for_ever_although_the_address_is_used_again(new: str) -> None:
    """The addresses of all of them are logged: at least one must have been used again for this to prove anything."""
    script = f"""
        init
        current main
        repeat 30
            {new} sub
            interp address
            run import probe; probe.log("address %d" % probe.value("address"))
            if old
                refused old 3
                close_view old
            end
            view_current old
            guard g old
            some g
            close g
            end_interp main
            refused old 3
        end
        finalize
        refused old 3
        log done
    """
    result = embed(script)
    in_order(result, "done")
    addresses = [line for line in result.lines() if line.startswith("address")]
    assert len(addresses) == 30
    if len(set(addresses)) == 30:
        pytest.skip("this allocator never gave an address out again")


def test_V2_main_view_follows_reinitialization() -> None:
    script = """
        view_main early
        repeat 3
            init
            guard g early
            some g
            close g
            if of_current
                ensure_view t of_current
                some t
                release t
                guard g of_main
                some g
                close g
            end
            view_current of_current
            view_main of_main
            finalize
            refused early 3
            refused of_current 3
            refused of_main 3
        end
        log done
    """
    in_order(embed(script), "done")


@support.ours_only("3.15.2 knows interpreters by id alone, and ids start again at 1 with each initialization")
def test_V2_subinterpreter_view_does_not_follow_reinitialization() -> None:
    script = """
        repeat 4
            init
            current main
            new_interp sub
            if old
                refused old 3
                close_view old
            end
            view_current old
            guard g old
            some g
            close g
            end_interp main
            refused old 3
            finalize
            refused old 3
        end
        log done
    """
    in_order(embed(script), "done")


def test_V2_python_made_subinterpreters() -> None:
    result = child(
        """
        import probe
        from subinterpreters import create, destroy, run_string
        for n in range(10):
            sub = create("isolated" if n % 2 else "legacy")
            run_string(sub, "import probe; probe.do('view_current v')")
            probe.do("guard g v\\nsome g\\nclose g")
            destroy(sub)
            probe.do("refused v 3")
            again = create("legacy")
            run_string(again, "import probe")
            probe.do("refused v 3\\nclose_view v")
            destroy(again)
        probe.log("done")
        """
    )
    in_order(result, "done")


# --- V3: races with destruction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("new", NEW)
def test_V3_acquiring_races_with_Py_EndInterpreter(new: str) -> None:
    """The racers start before, in and after the end; what they get holds, or it is NULL."""
    rounds = """
        repeat COUNT
            clear start
            clear ended
            clear given
            NEW sub
            view_current v
            RACERS
            set start
            WAIT
            end_interp main
            set ended
            JOIN
            refused v 3
            close_view v
        end
    """
    rounds = rounds.replace("COUNT", str(support.tries(50))).replace("NEW", new)
    rounds = rounds.replace("RACERS", RACERS).replace("JOIN", JOIN_RACERS)
    script = f"""
        init
        current main
        {rounds.replace("WAIT", "")}
        {rounds.replace("WAIT", AWAIT_GIVEN)}
        finalize
        log_tally
    """
    raced(script)


def test_V3_acquiring_races_with_an_end_that_has_begun() -> None:
    script = f"""
        init
        current main
        repeat {support.tries(60)}
            clear start
            clear ended
            clear given
            new_interp sub
            view_current v
            {START_IN_CALLBACK}
            {RACERS}
            end_interp main
            set ended
            {JOIN_RACERS}
            refused v 3
            close_view v
        end
        finalize
        log_tally
    """
    raced(script)


def test_V3_acquiring_races_with_Py_FinalizeEx() -> None:
    script = f"""
        view_main v
        repeat {support.tries(15)}
            clear start
            clear ended
            clear given
            init
            {START_IN_CALLBACK}
            {RACERS}
            finalize
            set ended
            {JOIN_RACERS}
            refused v 3
        end
        log_tally
    """
    raced(script)


@support.ours_only("3.15.2 gives guards while Py_Initialize has not made the GIL yet; its debug build aborts in take_gil")
def test_V3_acquiring_races_with_initialization() -> None:
    """A guard of an interpreter that is still coming up must be as good as any other."""
    script = f"""
        view_main v
        repeat {support.tries(15)}
            clear ended
            clear given
            spawn racer
                race_start v ended 20
            end
            init
            save main
            await given
            restore main
            finalize
            set ended
            join racer
        end
        log_tally
    """
    raced(script)


def test_V3_closing_views_races_with_the_end() -> None:
    closers = "".join(
        f"""
            spawn closer{n}
                await start
                close_view v{n}
            end"""
        for n in range(4)
    )
    script = f"""
        init
        current main
        repeat {support.tries(60)}
            clear start
            new_interp sub
            view_current v0
            view_current v1
            view_current v2
            view_current v3
            {closers}
            set start
            end_interp main
            join closer0
            join closer1
            join closer2
            join closer3
        end
        finalize
        log done
    """
    in_order(embed(script, timeout=300), "done")
