"""`pep788 stress` itself: arguments, numbers, reports, Ctrl-C and the pytest plugin."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
import support

SOURCE = support.REPO / "src" / "pep788" / "stress"
OK = [sys.executable, "-c", "pass"]
BAD = [sys.executable, "-c", "import os; os.abort()"]
LAYOUT = """
#include "{probe}"
#include <stdio.h>
int main(void) {{
    printf("%zu %zu %zu %zu %zu\\n", sizeof(record_t), offsetof(record_t, events), offsetof(record_t, losses),
           offsetof(record_t, crash_frames), offsetof(record_t, hold));
    return 0;
}}
"""


@pytest.fixture
def stress(command):
    return lambda *words: command("stress", *[str(word) for word in words])


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, complaint",
    [
        ([], "say what to run, after --"),
        (["--"], "say what to run, after --"),
        (["--runs", "0", "--", "true"], "invalid whole number above 0 value: '0'"),
        (["--timeout", "nan", "--", "true"], "invalid number of seconds value: 'nan'"),
        (["--until-confidence", "100", "--", "true"], "invalid percentage between 0 and 100 value: '100'"),
        (["--compare", "--", "true"], "--compare needs two commands"),
        (["--python", "3.12", "--", "true"], "must be python, not true"),
        (["--python", "3.12", "--embed", "--", "python"], "cannot be had with --embed"),
        (["--", "program.py"], "write python program.py"),
        (["--nonsense", "--", "true"], "unrecognized arguments"),
        (["--python", "9.9", "--", "python"], "--python 9.9: not on PATH"),
        (["--python", "/no/such/python", "--", "python"], "no such program"),
        (["python", "app.py"], "the command comes after --: pep788 stress -- python app.py"),
        (["-m"], "-m needs the name of a module"),
        (["--python", "/bin/true", "--", "python"], "is no Python 3 (it said nothing): give another one with --python"),
        (["--", "/no/such/program"], "/no/such/program: no such command; check the name, or give its path"),
        (["--", "/"], "/ is a folder; name a program"),
        (["--", "{file}"], "is not executable; put its interpreter in front, such as python, or chmod +x it"),
        (["--", "{empty}"], "is no program; put its interpreter in front, such as python"),
        (["--", "{script}"], "needs an interpreter that is not there; look at its first line"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(stress, tmp_path, words, complaint):
    files = {"file": "", "empty": "", "script": "#!/no/such/interpreter\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o644 if name == "file" else 0o755)
    paths = {name: str(tmp_path / name) for name in files}
    result = stress(*[word.format(**paths) for word in words]).check(2)
    assert complaint in result.err
    assert "Traceback" not in result.err


def test_help(stress):
    result = stress("--help").check()
    assert result.out.startswith("usage: pep788 stress") and "--until-confidence" in result.out


def test_a_module_and_its_arguments(stress, tmp_path):
    (tmp_path / "main.py").write_text("import sys; sys.exit(sys.argv[1:] != ['--', '-x'])")
    stress("--runs", 1, "--", sys.executable, tmp_path / "main.py", "--", "-x").check()
    stress("--runs", 1, "-m", "this").check()


def test_the_runs_that_a_confidence_needs(python):
    """459 runs without a failure: below 1 % with 99 % confidence."""
    code = """
        from pep788 import stress
        options = stress._parse(["--until-confidence", "99", "--", "true"])
        assert options.runs == 459, options.runs
        options = stress._parse(["--until-confidence", "95%", "--rate", "5", "--", "true"])
        assert options.runs == 59, options.runs
    """
    python(code).check()


def test_an_interpreter_by_version_and_by_path(stress, tmp_path):
    """The label is what the interpreter says of itself."""
    version = ".".join(map(str, sys.version_info[:3]))
    output = tmp_path / "report.json"
    stress("--runs", 1, "--python", sys.executable, "--format", "json", "-o", output, "--", "python", "-c", "pass").check()
    (cell,) = json.loads(output.read_text())["cells"]
    assert cell["label"].startswith(version[:3]) and cell["command"][0] == sys.executable


def test_where_interpreters_are_looked_for(package, tmp_path):
    """PATH, then pyenv's, then uv's; never a build of another kind, and without a home there is just less to look at."""
    folders = [f"versions/{name}/bin" for name in ("3.9.1", "3.9.18", "3.9.20t", "3.9-dev", "3.90.1")]
    for place in [f"{folder}/python" for folder in folders] + ["path/python3.8"]:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).symlink_to(sys.executable)
    uv = tmp_path / "path" / "uv"
    uv.write_text('#!/bin/sh\n[ "$*" = "python find --no-project --offline 3.7" ] && echo /bin/sh\n')
    uv.chmod(0o755)
    code = """if True:
        import os
        from pep788.stress import NotFoundError, _interpreters
        here = os.environ["PYENV_ROOT"]
        for version in ("3.8", "3.9", "3.9.1", "3.9t", "3.7", "3.6"):
            try:
                print(version, os.path.relpath(_interpreters.find(version), here))
            except NotFoundError:
                print(version, "not found")
        del os.environ["PYENV_ROOT"]
        os.environ.pop("HOME", None)
        os.path.expanduser = lambda path: path  # of a user without an entry
        try:
            print(_interpreters.find("3.6"))
        except NotFoundError as error:
            print(error)
    """
    env = {"PATH": str(tmp_path / "path"), "PYENV_ROOT": str(tmp_path)}
    lines = support.run_child(code, path=[package], env=env).check().out.splitlines()
    assert lines[:4] == [
        "3.8 path/python3.8", "3.9 versions/3.9.18/bin/python",
        "3.9.1 versions/3.9.1/bin/python", "3.9t versions/3.9.20t/bin/python",
    ]  # fmt: skip
    assert lines[4].endswith("bin/sh") and lines[5] == "3.6 not found"
    assert "not among pyenv's versions, not among uv's; give its path" in lines[6]


# --- numbers --------------------------------------------------------------------------------------------------------


def test_bounds_and_the_exact_test(python):
    """Against known values: the rule of three, Clopper-Pearson of 1 in 10, and Fisher's tea."""
    code = """
        from pep788.stress import _stats
        near = lambda value, known: abs(value - known) < 1e-3 * known
        assert near(_stats.upper_bound(0, 300), 1 - 0.05 ** (1 / 300))
        assert near(_stats.upper_bound(1, 10), 0.39416)
        assert _stats.upper_bound(7, 7) == 1.0
        assert near(_stats.fisher(3, 4, 1, 4), 0.485714)
        assert near(_stats.fisher(0, 10, 10, 10), 1.0825e-05)
        assert _stats.fisher(5, 10, 5, 10) == 1.0
        assert _stats.fisher(0, 10, 0, 10) == 1.0
    """
    python(code).check()


def test_the_record_has_the_layout_of_the_probe(python, tmp_path):
    if sys.platform != "linux":
        pytest.skip("the probe is for Linux")
    source = tmp_path / "layout.c"
    source.write_text(LAYOUT.format(probe=SOURCE / "_probe.c"))
    compiler = support.compile_command()[0]
    flags = ["-std=c11", "-Wno-unused-function", "-pthread", "-o", tmp_path / "layout", source, "-ldl"]
    subprocess.run([compiler, *flags], check=True)
    seen = subprocess.run([tmp_path / "layout"], stdout=subprocess.PIPE, text=True, check=True).stdout
    code = "from pep788.stress import _record as r; print(r.SIZE, r._EVENTS_AT, r._LOSSES_AT, r._FRAMES_AT, r._HOLD_AT)"
    assert python(code).check().out == seen


# --- reports --------------------------------------------------------------------------------------------------------


def test_a_comparison_says_whether_the_difference_is_chance(stress):
    result = stress("--compare", "--runs", 6, "--no-stacks", "--", *BAD, "--", *OK).check()
    assert "6 of 6 failed before, 0 of 6 after: fewer failures, and not by chance (p = 0.0022)" in " ".join(result.out.split())
    result = stress("--compare", "--runs", 6, "--no-stacks", "--", *OK, "--", *BAD).check(1)
    assert "MORE failures" in result.out
    result = stress("--compare", "--runs", 2, "--", *OK, "--", *OK).check()
    assert "no difference that is more than chance (p = 1)" in " ".join(result.out.split())


def test_no_failure_is_no_proof_that_there_is_none(stress):
    out = " ".join(stress("--runs", 4, "--", *OK).check().out.split())
    assert "0 of 4 failed. That proves a failure rate below 53 % with 95 % confidence" in out


def test_without_a_probe_the_stages_are_known(package):
    """As on macOS: crashes and hangs are found with their stage, lost threads are not."""
    code = """if True:
        import sys
        from pep788 import stress
        stress.find_probe = lambda: None
        sys.exit(stress.main(["--runs", "1", "--timeout", "0.1", "--no-stacks", "--", *sys.argv[1:]]))
    """
    hangs = "import threading; threading.Thread(target=threading.Event().wait).start()"
    out = support.run_child([sys.executable, "-c", code, sys.executable, "-c", hangs], path=[package]).check(1).out
    assert "hang: waiting for threads (threading._shutdown)" in " ".join(out.split())
    assert "no Python was seen" not in out and "Without the probe" in out


def test_a_program_that_is_not_seen_is_said_to_be_so(stress):
    out = " ".join(stress("--runs", 2, "--", sys.executable, "-I", "-c", "pass").check().out.split())
    assert "in 2 runs no Python was seen" in out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is a probe on Linux only")
def test_a_program_that_becomes_another_is_seen(stress):
    """As `pep788 shield` does, by execve: the process has the same number, and the environment of the one before."""
    second = "import sys; sys.exit(3 if hasattr(sys, '_pep788_stress') else 4)"
    first = f"import os, sys; os.execv(sys.executable, [sys.executable, '-c', {second!r}])"
    stress("--runs", 2, "--status", 3, "--", sys.executable, "-c", first).check()


def test_junit(stress, tmp_path):
    output = tmp_path / "report.xml"  # whose ending is enough
    stress("--runs", 3, "-o", output, "--", *BAD).check(1)
    suite = ElementTree.parse(output).getroot().find("testsuite")
    assert suite is not None and suite.attrib["tests"] == suite.attrib["failures"] == "3"
    failure = suite.find("testcase/failure")
    assert failure is not None and failure.attrib["message"].startswith("SIGABRT")


# A line of code, an escape and a byte that is no UTF-8, as the words of a command.
HOSTILE = [b"-c", b"'\x1b\xff'\nimport os\nos._exit(3)"]


@pytest.mark.parametrize("format_name", ["text", "json", "junit", "html"])
def test_a_command_of_any_bytes(package, tmp_path, format_name):
    output = tmp_path / "report"
    options = ["--runs", "1", "--format", format_name, "-o", str(output), "--"]
    argv = [sys.executable, "-m", "pep788", "stress", *options, sys.executable, *HOSTILE]
    env = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = support.run_child(argv, path=[package], env=env).check(1)
    assert "\x1b" not in result.out
    if format_name == "junit":
        assert ElementTree.parse(output).getroot().find("testsuite/testcase") is not None
    assert output.read_text(encoding="utf-8")


def test_standard_output_that_is_closed(package, tmp_path):
    """The exit status still tells, and a file is still written."""
    output = tmp_path / "report.txt"
    argv = [sys.executable, "-m", "pep788", "stress", "--runs", "1", "--no-stacks"]
    script = 'exec "$@" <&- >&-'
    result = support.run_child(["sh", "-c", script, "sh", *argv, "--", *BAD], path=[package]).check(1)
    assert "Traceback" not in result.err
    result = support.run_child(["sh", "-c", script, "sh", *argv, "-o", output, "--", *OK], path=[package]).check()
    assert "GREEN" in output.read_text()


def test_a_report_fits_the_terminal(package):
    argv = [sys.executable, "-m", "pep788", "stress", "--runs", "1", "--", sys.executable, "-c", "import os; os._exit(3)"]
    result = support.run_child(argv, path=[package], env={"COLUMNS": "60"}).check(1)
    assert max(map(len, result.out.splitlines())) <= 60, result.describe()
    result = support.run_child([*argv[:4], "--help"], path=[package], env={"COLUMNS": "80"}).check()
    assert max(map(len, result.out.splitlines())) <= 80, result.describe()


def test_a_thread_that_hung_has_not_crashed(package):
    """It is sent SIGABRT, for its stacks, which is no event of its own."""
    code = """if True:
        from pep788.stress import _html, _record
        stages = (0, 10, 0, 0, 0, 0, 0, 0)
        events = (_record.Event(5, 7, _record.STARTED), _record.Event(90, 7, _record.CRASHED))
        record = _record.Record(1, "3.12.1", True, 1, stages, 1, 6, 7, True, (), (), 0, events)
        print("crashed" in _html.timeline(record, 100, hung=True), "crashed" in _html.timeline(record, 100, hung=False))
    """
    assert support.run_child(code, path=[package]).check().out == "False True\n"


def test_a_hang_says_what_it_was_sent_and_what_to_install(package):
    code = """if True:
        import sys
        from pep788.stress import _stacks, main
        _stacks._tools = lambda pid: []
        sys.exit(main(["--runs", "1", "--timeout", "0.1", "--", *sys.argv[1:]]))
    """
    hangs = "import os, threading; os.write(2, b'here'); threading.Thread(target=threading.Event().wait).start()"
    argv = [sys.executable, "-c", code, sys.executable, "-c", hangs]
    out = support.run_child(argv, path=[package]).check(1).out
    assert "pep788 stress sent the SIGABRT at its end:" in out and "| here" in out
    assert "install pystack (pip install pystack) or gdb" in out


def test_html_is_one_file_with_pictures(stress, tmp_path):
    output = tmp_path / "report.html"
    hostile = [sys.executable, "-c", "import os; os.write(2, b'<script>alert(1)</script>\\x00\\xff'); os.abort()"]
    stress("--runs", 3, "-o", output, "--", *hostile).check(1)
    text = output.read_text(encoding="utf-8")
    assert text.count("<svg") == 2 and "</html>" in text
    assert "<script" not in text and "&lt;script&gt;" in text
    own = re.sub("<pre>.*?</pre>", "", text, flags=re.DOTALL)  # not what programs and debuggers said
    assert "http:" not in own and "https:" not in own and "src=" not in own


def test_a_report_that_cannot_be_written_is_shown(stress, tmp_path):
    result = stress("--runs", 1, "-o", tmp_path / "no" / "folder", "--", *OK).check(2)
    assert "cannot be written" in result.err and "GREEN" in result.out


def test_much_output_is_bounded(stress, tmp_path):
    output = tmp_path / "report.json"
    noisy = [sys.executable, "-c", "import os\nfor _ in range(200): os.write(2, b'x' * 65536)\nos.write(2, b'the end'); os.abort()"]
    stress("--runs", 1, "--format", "json", "-o", output, "--", *noisy).check(1)
    (group,) = json.loads(output.read_text())["cells"][0]["groups"]
    assert len(group["sample"]["stderr"]) < 100_000
    assert "the end" in group["sample"]["stderr"]


def test_the_same_seed_gives_the_same_pauses(tmp_path):
    """What the amplifier asks time.sleep for, in order."""
    code = f"""if True:
        import atexit, os, sys, time
        slept, sleep = [], time.sleep
        time.sleep = slept.append
        sys.path.insert(0, {str(SOURCE / "inject")!r})
        import _pep788_stress
        for _ in range(20):
            atexit.register(int)
        atexit._run_exitfuncs()
        assert 0 < sum(slept) < 0.16 and max(slept) < 0.008, slept
        print(slept)
    """
    seen = [
        support.run_child(code, env={"PEP788_STRESS_DIR": str(tmp_path), "PEP788_STRESS_SEED": seed}).check().out
        for seed in ("7", "7", "8")
    ]
    assert seen[0] == seen[1] != seen[2]


def test_no_temporary_folder(package):
    code = "import tempfile; tempfile.tempdir = '/no/such/folder'; from pep788.cli import main; raise SystemExit(main())"
    argv = [sys.executable, "-c", code, "stress", "--", *OK]
    result = support.run_child(argv, path=[package]).check(2)
    assert "no temporary folder (No such file or directory): set TMPDIR to one you can write" in result.err


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_gives_the_report_so_far_and_leaves_nothing(package, tmp_path, number):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = f"import os, time\nfile = os.open({str(fifo)!r}, os.O_WRONLY)\nos.write(file, b'x')\ntime.sleep(3600)"
    argv = [sys.executable, "-m", "pep788", "stress", "--runs", "9999999", "--jobs", "2", "--"]
    argv += [sys.executable, "-c", program]
    env = {**os.environ, "PYTHONPATH": str(package), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with open(fifo, "rb") as reader:
        assert reader.read(1) == b"x"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert not reader.read().strip(b"x"), "the children are gone, or this would wait for ever"
    assert process.returncode == 130, err
    assert "interrupted" in out
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]


# --- the pytest plugin --------------------------------------------------------------------------------------------------


TESTS = """
import os
import pytest

@pytest.mark.pep788_stress(runs=2)
def test_good():
    print("in another process", os.getpid())

@pytest.mark.pep788_stress(runs=2)
def test_bad():
    os.abort()

def test_fixture(pep788_stress):
    pep788_stress("import threading; threading.Thread(target=print).start()", runs=2)

def test_fixture_bad(pep788_stress):
    pep788_stress("import os; os._exit(4)", runs=2)

class TestClass:
    @pytest.mark.pep788_stress
    def test_method(self):
        pass

@pytest.mark.pep788_stress(rounds=2)
def test_option():
    pass

@pytest.mark.pep788_stress(runs=0)
def test_number():
    pass

@pytest.mark.pep788_stress(runs=1)
async def test_async():
    pass
"""


@pytest.mark.parametrize("xdist", [False, True])
def test_the_pytest_plugin(package, tmp_path, xdist):
    (tmp_path / "test_them.py").write_text(TESTS)
    argv = [sys.executable, "-m", "pytest", "-p", "pep788.stress.pytest_plugin", "--strict-markers", "-q", "-rA"]
    argv += ["-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    argv += ["-p", "xdist", "-n", "2"] if xdist else []
    # An installed pep788 would load it as well, by its entry point.
    result = support.run_child(argv, path=[package], env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    out = result.out
    for name in ("test_good", "test_fixture"):
        assert re.search(rf"^PASSED .*test_them.py::{name}$", out, re.MULTILINE), result.describe()
    for name in ("test_bad", "test_fixture_bad", "TestClass::test_method", "test_option", "test_number", "test_async"):
        assert re.search(rf"^FAILED .*test_them.py::{name}( - .*)?$", out, re.MULTILINE), result.describe()
    assert "SIGABRT" in out and "exit status 4" in out
    assert "[1] test_bad: 2 of 2 runs: SIGABRT" in out
    assert "only for functions of a module" in out and "it is async, and would not be awaited" in out
    assert "rounds" in out and "runs must be above 0, not 0" in out


def test_the_plugin_is_an_entry_point():
    text = (support.REPO / "pyproject.toml").read_text()
    assert '[project.entry-points.pytest11]\npep788_stress = "pep788.stress.pytest_plugin"' in text
    assert pathlib.Path(SOURCE, "pytest_plugin.py").exists()
