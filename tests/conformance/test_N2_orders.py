"""N2: no crash and no hang, whatever the order of what a program may do.

A program is a string; each letter is a step of n_orders.c:

    I F  initialize, finalize                     m    leak a view of main, also before it exists
    s e  create, end a subinterpreter             v    leak a view of the current interpreter
    N    Pep788_Init                              V    use all views, of whatever interpreter
    i r  import, re-import a module of ours       W    close a view
    c C  take and close a guard (C: must get it)  f    fork; child and parent go on
    g p  leak a guard, a module's guard           x k  atexit._run_exitfuncs(), atexit._clear()
    G    close a leaked guard, perhaps too late   X K  the same, called by C code with no Python frame below
    E    Ensure on all leaked guards, the same
    t    leak a token on this thread              H    a thread that takes guards until refused
    T S  a thread that leaks its token (S: in a subinterpreter too)
    q    a thread that keeps a thread state, until refused
    Q    a thread that leaks the token of a kept one
    h    import threading, which tells X and K from the end of a subinterpreter
"""

from __future__ import annotations

import random
import sys
import textwrap

import pytest
import support
from f_tools import HERE, TIMEOUT, events, probe

LEAKS = "gptTHQ"  # what a leak of these does on native 3.15 is by contract: it hangs


@pytest.fixture(scope="module")
def program():
    return support.build_program("n_orders", [HERE / "n_orders.c"])


def run(program, steps: str) -> support.Result:
    env = {"PEP788_GIVE_UP_AFTER": "0.2", "PEP788_REPORT_AFTER": "60"}
    result = support.run_child([program, steps], path=[probe()], env=env, timeout=60)
    if result.hung or result.returncode or "done" not in result.out:
        pytest.fail(result.describe(f"steps {steps!r}"), pytrace=False)
    return result


KEPT = [
    "IicF",
    "mIVFVIVFV",
    "mmIvFWWV",
    "INicFINicF",
    "IirrrF",
    "IiFIrF",
    "IvFIvFVWV",
    "IsiceF",
    "IsiesieF",
    "IssieieicF",
    "ImsvieVFV",
    "IsveVsVeF",
    "IsveFIsVeVF",
    "IxicF",
    "IikcF",
    "IixxkkcsixekcF",
    "IfF",
    "IificF",
    "IivfVF",
    "IsifeicF",
    "IfFIficF",
    "ImFV",
    "mFVIcF",
    "ICXCXCKCF",
    "INXCKCXKCFICF",
    "IiXrKrCF",
    "IshCXCKCeCXCF",
    "IsCXKeCXCF",
    "IsXeXsKeKCFIXCF",
    "IXfCXF",
    "IqF",
    "IqqFIqcF",
    "IsqeF",
    "IsqeqcF",
    "IsqsqeqeqcF",
    "IqfF",
    "IsqfeqcF",
    "IiqxqkqcF",
    "IsqXeqF",
    "IqFIsqeqFIqF",
]

KEPT_LEAKS = [
    "IgF",
    "IgFGIcF",
    "IigpF",
    "ItF",
    "ItttF",
    "IiTF",
    "ITTFITF",
    "IHHF",
    "IHHHFIHF",
    "IsgeF",
    "IsgeGsceF",
    "IsipeF",
    "IsteF",
    "IsHeF",
    "IsHHeHF",
    "IgfF",
    "IgfGcF",
    "IiHfcF",
    "IgsgfF",
    "IsgeFGIsgeFG",
    "IgxF",
    "IgkF",
    "IsgxkeF",
    "IHxkxkF",
    "IgFgIgFGGG",
    "ItfF",
    "IiTfF",
    "ITxF",
    # RED before on 3.9 and 3.14: Ensure on a guard of an interpreter that is gone crashed.
    "IgFE",
    "IgEFEIEcFE",
    "IigFEGE",
    "IgFIgEFEGGE",
    "IgfFE",
    "IgfEFE",
    "IgfcFIgEFE",
    "IsgEeEFE",
    "IsgesEeEFE",
    "IsgefEFE",
    "IQF",
    "IqQfqF",
    "IQqQFIqF",
    "IsqgeF",
    "IsqgeqF",
]


@pytest.mark.parametrize("steps", KEPT)
def test_N2_orders_without_leaks(program, steps: str) -> None:
    run(program, steps)


@support.ours_only("a leaked guard holds 3.15.2 for ever, as its contract says")
@pytest.mark.parametrize("steps", KEPT_LEAKS)
def test_N2_orders_with_leaks(program, steps: str) -> None:
    run(program, steps)


def random_steps(seed: int, letters: str) -> str:
    """A life of one to three initializations; at most two forks, each of which doubles what follows."""
    source = random.Random(seed)
    steps = []
    for _ in range(source.randint(1, 3)):
        steps.append("I" + "".join(source.choices(letters, k=source.randint(3, 12))) + "F")
    text = source.choice(["", "m", "mm"]) + "".join(steps) + source.choice(["", "V", "W", "VWV"])
    first, second = text.find("f"), text.find("f", text.find("f") + 1)
    keep = {first, second}
    return "".join(c for at, c in enumerate(text) if c != "f" or at in keep)


@pytest.mark.parametrize("seed", range(support.tries(25)))
def test_N2_random_orders(program, seed: int) -> None:
    letters = "irccvVWsseefxkXKNmqq"
    run(program, random_steps(seed, letters if support.NATIVE else letters + LEAKS + "GE"))


@support.ours_only("a leaked guard holds 3.15.2 for ever, as its contract says")
@pytest.mark.skipif(
    sys.version_info < (3, 14),
    reason="Py_EndInterpreter aborts on any thread state that is left, and giving up proceeds as without us",
)
def test_N2_a_thread_state_leaked_in_a_subinterpreter(program) -> None:
    run(program, "IsSeicF")
    run(program, "IsiSSeFIcF")


@support.ours_only("a leaked guard holds 3.15.2 for ever, as its contract says")
@pytest.mark.skipif(sys.version_info < (3, 14), reason="CPython before 3.14 aborts on subinterpreters that C code left")
def test_N2_guards_of_subinterpreters_that_are_left_to_the_end(program) -> None:
    code = "import f_sub\nnumber = f_sub.create()\nf_sub.run(number, 'import f_probe; f_probe.guard()')\n"
    env = {"PEP788_GIVE_UP_AFTER": "0.2"}
    support.run_child(code, path=[probe(), HERE], env=env).check()


MIXES = {
    "guard in a global": "g = m.guard(); m.close(g)\nclass C:\n    def __del__(self, f=m.guard_from_view, v=m.view()): f(v)\nc = C()",
    "view closed in teardown": "class C:\n    def __del__(self, f=m.view_close, v=m.view()): f(v)\nc = C()",
    "module deleted with a view open": "v = m.view()\nimport sys\ndel sys.modules['f_probe'], m",
    "import in an atexit callback": "import atexit, sys\nm.view()\ndel sys.modules['f_probe']\natexit.register(lambda: __import__('f_probe').view())",
    "import in teardown": "import sys\nclass C:\n    def __del__(self, guard=m.guard, view=m.view):\n        try: guard()\n        except RuntimeError: view()\nsys.c = C()",
    "first Ensure in teardown": "import sys\nclass C:\n    def __del__(self, f=m.ensure_view, v=m.view()): f(v)\nsys.c = C()",
    "os._exit with everything open": "import os\nm.view(); m.guard(); m.thread(('ensure_view', m.view()), ('call', lambda: m.wait(9)))\nos._exit(0)",
    "a thread that may be too late": "m.thread(('guard_from_view', m.view()), ('close', 'r0'), ('ensure_view', m.main_view()), ('release', 'r2'))",
}


@pytest.mark.parametrize("name", MIXES)
def test_N2_odd_ends(name: str) -> None:
    result = support.run_child("import f_probe as m\n" + MIXES[name], path=[probe()]).check()
    assert result.err == ""


@pytest.mark.parametrize("first", [False, True], ids=["first there", "after main"])
@pytest.mark.parametrize("config", ["legacy", "isolated"])
def test_N2_first_import_in_a_subinterpreter_run_by_another_thread_than_its_creator(config: str, first: bool) -> None:
    """Up to 3.11 this thread then runs in a state that says it is the creator's. Never RED here: it was the import of
    the package that deadlocked (tests/tools), because it ensures main while it is imported (docs/limits.md)."""
    code = f"""
    import os, threading, f_sub
    if {first}:
        import f_probe
    number = f_sub.create("{config}")
    def run():
        f_sub.run(number, '''if True:
            import os, f_probe as m
            guard = m.guard_from_view(m.main_view())
            assert guard
            m.close(guard)
            m.thread(("guard_from_view", m.view()), ("set", 1), ("linger", 50), ("write", "closing\\\\n"), ("close", "r0"))
            m.wait(1)
        ''')
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    f_sub.destroy(number)
    os.write(1, b"destroyed\\n")
    """
    result = support.run_child(textwrap.dedent(code), path=[probe(), HERE], timeout=TIMEOUT).check()
    assert events(result) == ["closing", "destroyed"]
