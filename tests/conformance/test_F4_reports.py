"""F4: finalization that has to wait says for whom, and can be told to give up."""

from __future__ import annotations

import re
import sys
from typing import List

import pytest
import support
from f_tools import HERE, child, events, probe

pytestmark = support.ours_only("native 3.15 waits without a word, for ever")

QUICK = {"PEP788_REPORT_AFTER": "0.2"}

# Two guards of f_probe, one of f_second, closed when `count` reports were seen.
HOLD = """
import atexit, os, sys
import f_probe as m, f_second
m.tee_stderr("ends the wait.", {count}, 2)  # the end of a report
m.thread(("guard_from_view", m.view()), ("guard_from_view", m.view()), ("set", 1), ("wait", 2), ("close", "r0"),
         ("close", "r1"))
m.wait(1)
{second}
"""
SECOND = """
f_second.thread(("guard_from_view", f_second.view()), ("set", 1), ("wait", 3), ("close", "r0"))
f_second.wait(1)
m.thread(("wait", 2), ("ensure_view", m.view()), ("call", lambda: f_second.set(3)), ("release", "r1"))
"""


@pytest.fixture(scope="module")
def path() -> list:
    return [probe(), probe("f_second")]


def held(path: list, count: int = 1, second: str = SECOND, **env: str) -> support.Result:
    return child(HOLD.format(count=count, second=second), path=path, env={**QUICK, **env}).check()


def reports(result: support.Result) -> List[str]:
    """stderr split where a report begins. Every line of ours has the prefix."""
    assert all(line.startswith("pep788: ") for line in result.err.splitlines()), result.err
    return re.split(r"(?m)^(?=pep788: (?:finalization is waiting|gave up))", result.err)[1:]


def test_F4_a_report_names_each_module_and_its_guards(path) -> None:
    text = "".join(reports(held(path)))
    assert re.search(r"\b2 of module f_probe\b", text), text
    assert re.search(r"\b1 of module f_second\b", text), text
    assert "3 open interpreter guards" in text, text


def test_F4_a_report_says_what_to_do(path) -> None:
    text = "".join(reports(held(path)))
    assert "PyInterpreterGuard_Close" in text or "PEP788_GIVE_UP_AFTER" in text, text


def test_F4_no_report_of_modules_that_hold_nothing(path) -> None:
    text = "".join(reports(held(path, second="")))
    assert "f_probe" in text and "f_second" not in text, text


def waited(texts: List[str]) -> List[float]:
    """The seconds of which each report speaks, cut off after one digit."""
    return [float(re.search(r"after (\d+(?:\.\d+)?) s\b", text).group(1)) for text in texts]


def test_F4_one_report_and_no_threads_without_tracing(path) -> None:
    """The guards close as the first is read. Another one is there only if the machine took 2 s for that."""
    texts = reports(held(path))
    assert not any("thread" in line for text in texts for line in text.splitlines()[:-1]), texts
    first, *later = waited(texts)
    assert first >= 0.2 and all(seconds >= first + 1.9 for seconds in later), texts


def test_F4_tracing_names_thread_and_age_of_each_guard(path) -> None:
    plain = "".join(reports(held(path)))
    traced = "".join(reports(held(path, PEP788_TRACE="1")))
    lines = re.findall(r"(?m)thread .*\b[1-9]\d+\b.* \d+(?:\.\d+)? m?s$", traced)
    assert len(lines) == 3, traced
    assert len(traced.splitlines()) > len(plain.splitlines()), (plain, traced)


def test_F4_reports_repeat_with_growing_pauses(path) -> None:
    """The pause after a report is twice the time after which it was due itself, and 2 s at least: never shorter."""
    texts = reports(held(path, count=3, PEP788_REPORT_AFTER="0.2"))
    seconds = waited(texts)
    assert len(seconds) >= 3
    due = 0.2
    for before, after in zip(seconds, seconds[1:]):
        due = before + 2 * max(due, 1.0)
        assert after >= due - 0.2, texts


def test_F4_no_report_when_the_wait_is_short(path) -> None:
    code = """
    import atexit
    import f_probe as m
    m.thread(("guard_from_view", m.view()), ("set", 1), ("wait", 2), ("linger", 50), ("close", "r0"))
    m.wait(1)
    atexit.register(m.set, 2)
    """
    assert child(code, path=path, env={"PEP788_REPORT_AFTER": "600"}).check().err == ""


def test_F4_PEP788_MODULE_NAME_is_the_name_shown(path) -> None:
    named = probe("f_named", defines=['PEP788_MODULE_NAME="my sound library"'])
    code = """
    import f_named as m
    m.tee_stderr("ends the wait.", 1, 2)
    m.thread(("guard_from_view", m.view()), ("set", 1), ("wait", 2), ("close", "r0"))
    m.wait(1)
    """
    assert "my sound library" in child(code, path=[named], env=QUICK).check().err


# --- giving up ---

LEAK = """
import atexit, os, sys, types
import f_probe as m
m.guard()
atexit.register(os.write, 1, b"atexit\\n")
late = types.SimpleNamespace(**vars(m))  # teardown empties the module
class Last:
    def __del__(self, m=late, view=m.view(), write=os.write):
        write(1, b"teardown %d\\n" % m.guard_from_view(view))
        write(1, b"thread %d %d %d\\n" % tuple(m.join(m.thread(
            ("guard_from_view", view), ("failure",), ("ensure_view", view)))))
sys.last_of_all = Last()
sys.exit({status})
"""


@pytest.mark.parametrize("status", [0, 5])
def test_F4_giving_up_lets_finalization_go_on(status: int) -> None:
    """Later acquires are refused, teardown runs, and the exit status is the program's."""
    result = child(LEAK.format(status=status), env={"PEP788_GIVE_UP_AFTER": "0.3"}).check(status)
    assert events(result) == ["atexit", "teardown 0", "thread 0 2 0"]


def test_F4_giving_up_is_said() -> None:
    result = child(LEAK.format(status=0), env={"PEP788_GIVE_UP_AFTER": "0.3"}).check()
    assert "f_probe" in "".join(reports(result)), result.err


def test_F4_giving_up_leaves_guards_that_may_be_closed_later() -> None:
    code = """
    import sys, types
    import f_probe as m
    late = types.SimpleNamespace(**vars(m))  # teardown empties the module
    class Last:
        def __del__(self, m=late, guard=m.guard()):
            m.close(guard)
    sys.last_of_all = Last()
    """
    child(code, env={"PEP788_GIVE_UP_AFTER": "0.2"}).check()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a linker with --wrap")
def test_F4_never_gives_up_by_default() -> None:
    """For the header a day goes by with each look at the clock: it reports, and still waits when the guard is closed."""
    sources = [HERE / "f_probe.c", HERE / "f_fast_clock.c"]
    fast = support.build_extension(
        "f_probe", sources, defines=["MODULE=f_probe"], ldflags=["-Wl,--wrap=clock_gettime"]
    )
    code = """
    import f_probe as m
    m.tee_stderr("ends the wait.", 6, 2)
    m.thread(("guard_from_view", m.view()), ("set", 1), ("wait", 2), ("write", "closing\\n"), ("close", "r0"))
    m.wait(1)
    """
    result = child(code, path=[fast], env={"PEP788_REPORT_AFTER": None, "PEP788_GIVE_UP_AFTER": None}).check()
    texts = reports(result)
    assert len(texts) >= 6 and waited(texts)[-1] > 100 * 86400, texts
    assert "gave up" not in result.err and events(result) == ["closing"], result.describe()


def test_F4_giving_up_on_a_subinterpreter() -> None:
    code = """
    import f_sub, os, f_probe as m
    number = f_sub.create()
    f_sub.run(number, "import f_probe; f_probe.guard()")
    f_sub.destroy(number)
    g = m.guard()
    assert g
    m.close(g)
    os.write(1, b"main goes on\\n")
    """
    result = child(code, path=[probe(), HERE], env={"PEP788_GIVE_UP_AFTER": "0.3"}).check()
    assert events(result) == ["main goes on"]


_SINGLE = pytest.mark.skipif(sys.version_info < (3, 12), reason="_xxsubinterpreters wants a single thread state")


@pytest.mark.parametrize("where", ["main", pytest.param("subinterpreter", marks=_SINGLE)])
def test_F4_calls_in_flight_end_before_the_wait_is_given_up(where: str) -> None:
    """Newcomers are refused some time before. RED before: "not the last thread" (3.9-3.13), a thread that is lost."""
    threads = """
    import f_probe as m, os
    view = m.view()
    m.guard()
    m.thread(("ensure_view", view), ("detach",), ("set", 1), ("wait", 2), ("attach", "r1"), ("release", "r0"),
             ("write", "out\\n"))
    m.thread(("churn", view), ("set", 2))
    m.wait(1)
    """
    code = f"""
    import f_sub, textwrap
    threads = textwrap.dedent({threads!r})
    if {where!r} == "main":
        exec(threads)
    else:
        number = f_sub.create()
        f_sub.run(number, threads)
        f_sub.destroy(number)
    """
    result = child(code, path=[probe(), HERE], env={"PEP788_GIVE_UP_AFTER": "2"}).check()
    assert events(result) == ["out"] and "gave up" in result.err, result.describe()


# --- values that make no sense ---


@pytest.mark.parametrize("value", ["soon", "", "-1", "nan", "1s", "1e999"])
@pytest.mark.parametrize("name", ["PEP788_REPORT_AFTER", "PEP788_GIVE_UP_AFTER"])
def test_F4_a_bad_value_is_warned_of_once(path, name: str, value: str) -> None:
    """One line that names the variable and the value; the default holds, and nothing else changes."""
    code = """
    import f_probe as m, f_second
    m.thread(("guard_from_view", m.view()), ("set", 1), ("wait", 2), ("linger", 200), ("close", "r0"))
    m.wait(1)
    m.close(m.guard()); f_second.close(f_second.guard())
    import atexit
    atexit.register(m.set, 2)
    """
    result = child(code, path=path, env={name: value}).check()
    if value == "":
        assert result.err == ""  # as if it were not set
        return
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("pep788: ") and name in result.err and value in result.err, result.err


@pytest.mark.parametrize("value", ["0", ""])
def test_F4_tracing_is_off_unless_asked_for(path, value: str) -> None:
    assert len(held(path, PEP788_TRACE=value).err.splitlines()) == len(held(path).err.splitlines())


def test_F4_a_fraction_without_a_leading_zero_is_fine(path) -> None:
    """No warning comes before what was asked for."""
    err = held(path, PEP788_REPORT_AFTER=".3").err
    assert err.startswith("pep788: finalization is waiting"), err
    env = {"PEP788_REPORT_AFTER": "600", "PEP788_GIVE_UP_AFTER": ".3"}
    err = child("import f_probe; f_probe.guard()", path=path, env=env).check().err
    assert err.startswith("pep788: gave up waiting"), err
