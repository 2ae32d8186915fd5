"""The `pep788` command: what it prints, what it writes, and its exit statuses."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest
import support

INCLUDE = support.INCLUDE
HEADER = INCLUDE / "pep788.h"


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- usage ----------------------------------------------------------------------------------------------------


def test_no_command_shows_the_help_and_is_a_usage_error(command):
    result = command().check(2)
    assert result.out == ""
    assert "usage: pep788" in result.err and "vendor" in result.err


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["vendor"], "the following arguments are required: DIR"),
        (["vendor", "a", "b"], "unrecognized arguments: b"),
        (["vendor", "a", "--force", "--check"], "not allowed with argument"),
        (["info", "--jsn"], "unrecognized arguments: --jsn"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(command, arguments, complaint):
    result = command(*arguments).check(2)
    assert result.out == ""
    assert complaint in result.err
    assert result.err.startswith("usage: pep788")


@pytest.mark.parametrize("arguments", [["--help"], ["info", "--help"], ["vendor", "--help"]])
def test_help(command, arguments):
    result = command(*arguments).check()
    assert result.out.startswith("usage: pep788")
    assert result.err == ""


def test_version(command, python):
    version = python("import pep788; print(pep788.__version__)").check().out.strip()
    assert command("--version").check().out == f"pep788 {version}\n"


def test_main_takes_arguments_and_returns_the_status(python):
    result = python("""
        from pep788.cli import main
        print(main(["info"]), main(["vendor", "/dev/null/x"]))
    """).check()
    assert result.lines()[-1] == "0 1"
    assert result.err.startswith("pep788: ")


# --- info -----------------------------------------------------------------------------------------------------


def test_info_as_json(command, package):
    result = command("info", "--json").check()
    info = json.loads(result.out)
    assert info["interpreter"].startswith("CPython " + sys.version.split()[0])
    assert info["executable"] == sys.executable
    assert info["include"] == str(package / "pep788" / "include")
    assert info["extensions_use"].startswith("the native API" if support.HAS_NATIVE else "the backport")
    assert info["modules"] == {"pep788": 0}
    assert info["guards"] == 0


def test_info_for_people_names_the_same(command):
    info = json.loads(command("info", "--json").check().out)
    text = command("info").check().out
    for key in ("interpreter", "include", "package", "header", "extensions_use"):
        assert info[key] in text
    assert text.endswith("  pep788: 0 guards open\n")


def test_info_counts_the_guards_of_a_module_it_imports(command, python, package, tmp_path):
    (tmp_path / "holder.py").write_text("import pep788\nguard = pep788.guard()\nguard.__enter__()\n")
    arguments = [sys.executable, "-m", "pep788", "info", "holder"]
    result = support.run_child(arguments, path=[package, tmp_path]).check()
    assert "  pep788: 1 guard open" in result.lines()
    assert result.err == ""


def test_info_about_a_module_that_cannot_be_imported(command):
    result = command("info", "no_such_module").check(1)
    assert result.out == ""
    assert result.err.startswith("pep788: no_such_module cannot be imported: ModuleNotFoundError: ")
    assert result.err.endswith("; install it here, or set PYTHONPATH to its folder\n")


@pytest.mark.parametrize("status", ["3", "0", "", "'bye'"])
def test_info_about_a_module_that_exits(package, tmp_path, status):
    """The status is pep788's, not the module's."""
    (tmp_path / "leaver.py").write_text(f"import sys\nsys.exit({status})\n")
    arguments = [sys.executable, "-m", "pep788", "info", "leaver"]
    result = support.run_child(arguments, path=[package, tmp_path]).check(1)
    assert result.out == ""
    assert result.err.startswith("pep788: leaver cannot be imported: SystemExit: ")


def test_ctrl_c_while_a_module_is_imported(package, tmp_path):
    (tmp_path / "slow.py").write_text("import signal, os\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n")
    arguments = [sys.executable, "-m", "pep788", "info", "slow"]
    result = support.run_child(arguments, path=[package, tmp_path]).check(130)
    assert (result.out, result.err) == ("", "")


# --- output that cannot be written -----------------------------------------------------------------------------


def into(output, package, arguments, unbuffered=""):
    """Run the command with this standard output; returns its status and stderr."""
    environment = dict(os.environ, PYTHONPATH=str(package), PYTHONUNBUFFERED=unbuffered)
    words = [sys.executable, "-m", "pep788", *arguments]
    done = subprocess.run(words, stdout=output, stderr=subprocess.PIPE, env=environment, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["info"], ["info", "--json"], ["vendor", "DIR"], ["--help"], ["--version"]], ids=str)
def test_a_full_disk_is_told(package, tmp_path, arguments):
    with open("/dev/full", "wb") as full:
        result = into(full, package, [str(tmp_path) if word == "DIR" else word for word in arguments])
    assert result == (1, "pep788: output: No space left on device\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_told_by_unbuffered_output_too(package):
    """Not by --help and --version: argparse is silent when it cannot write."""
    with open("/dev/full", "wb") as full:
        assert into(full, package, ["info"], "1") == (1, "pep788: output: No space left on device\n")


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="needs POSIX pipes")
@pytest.mark.parametrize("arguments", [["info"], ["info", "--json"], ["--help"]], ids=str)
def test_a_reader_that_is_gone_is_no_traceback(package, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert into(writer, package, arguments) == (1, "")
    finally:
        os.close(writer)


# --- vendor ---------------------------------------------------------------------------------------------------


def test_vendor_copies_header_and_license_and_says_what_next(command, tmp_path):
    folder = tmp_path / "not" / "yet" / "there"
    result = command("vendor", str(folder)).check()
    assert sorted(os.listdir(folder)) == ["pep788.LICENSE", "pep788.h"]
    assert (folder / "pep788.h").read_bytes() == HEADER.read_bytes()
    terms = (folder / "pep788.LICENSE").read_text()
    assert hashlib.sha256(HEADER.read_bytes()).hexdigest() in terms
    assert "Permission to use, copy, modify, and/or distribute" in terms
    assert result.lines()[:2] == [f"wrote {folder / 'pep788.h'}", f"wrote {folder / 'pep788.LICENSE'}"]
    assert "Pep788_Init()" in result.out
    if os.name == "posix":
        assert (folder / "pep788.h").stat().st_mode & 0o777 == 0o644


def test_vendor_twice_changes_nothing(command, tmp_path):
    command("vendor", str(tmp_path)).check()
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.iterdir()}
    result = command("vendor", str(tmp_path)).check()
    assert before == {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.iterdir()}
    assert [line.split(":")[0] for line in result.lines()] == ["up to date"] * 2


@pytest.mark.parametrize("changed", ["pep788.h", "pep788.LICENSE"])
def test_vendor_never_overwrites_a_changed_file(command, tmp_path, changed):
    command("vendor", str(tmp_path)).check()
    with open(tmp_path / changed, "ab") as stream:
        stream.write(b"/* mine */\n")
    before = snapshot(tmp_path)
    result = command("vendor", str(tmp_path)).check(1)
    assert snapshot(tmp_path) == before
    assert result.err.startswith(f"pep788: {tmp_path / changed}: changed") and "--force" in result.err
    command("vendor", "--force", str(tmp_path)).check()
    assert (tmp_path / changed).read_bytes() != before[changed]
    assert (tmp_path / "pep788.h").read_bytes() == HEADER.read_bytes()


def test_vendor_never_overwrites_a_file_of_somebody_else(command, tmp_path):
    (tmp_path / "pep788.h").write_text("/* not ours */\n")
    command("vendor", str(tmp_path)).check(1)
    assert snapshot(tmp_path) == {"pep788.h": b"/* not ours */\n"}


def test_vendor_replaces_an_old_copy_that_nobody_changed(python, tmp_path):
    result = python(
        """
        import pathlib, sys
        from pep788 import vendor
        folder = pathlib.Path(sys.argv[1])
        old = folder / "old.h"
        old.write_text('#define PEP788_VERSION "0.0.9"\\n')
        vendor.copy(vendor.plan(old, folder), force=False)
        old.write_text('#define PEP788_VERSION "0.1.0"\\n')
        files = vendor.plan(old, folder)
        print([file.state.name for file in files])
        vendor.copy(files, force=False)
        print([file.state.name for file in vendor.plan(old, folder)])
        (folder / "pep788.h").write_text("changed\\n")
        print([file.state.name for file in vendor.plan(old, folder)])
    """,
        args=[str(tmp_path)],
    ).check()
    assert result.lines() == ["['OUTDATED', 'OUTDATED']", "['CURRENT', 'CURRENT']", "['CHANGED', 'CURRENT']"]
    assert "0.1.0" in (tmp_path / "pep788.LICENSE").read_text()


def test_vendor_takes_windows_line_endings_for_no_change(command, tmp_path):
    command("vendor", str(tmp_path)).check()
    header = tmp_path / "pep788.h"
    header.write_bytes(header.read_bytes().replace(b"\n", b"\r\n"))
    assert [line.split(":")[0] for line in command("vendor", str(tmp_path)).check().lines()] == ["up to date"] * 2


def test_vendor_check_writes_nothing(command, tmp_path):
    folder = tmp_path / "vendored"
    result = command("vendor", "--check", str(folder)).check(1)
    assert not folder.exists()
    assert result.lines()[0] == f"{folder / 'pep788.h'}: missing"
    command("vendor", str(folder)).check()
    assert command("vendor", "--check", str(folder)).check().lines()[0].endswith(": up to date")


def test_vendor_copies_the_cpp_header_on_request_and_then_keeps_it(command, tmp_path):
    command("vendor", str(tmp_path)).check()
    assert not (tmp_path / "pep788.hpp").exists()
    result = command("vendor", "--cpp", str(tmp_path)).check()
    assert [line.split()[0] for line in result.lines()[:3]] == ["up", "wrote", "wrote"]
    assert (tmp_path / "pep788.hpp").read_bytes() == HEADER.with_suffix(".hpp").read_bytes()
    assert command("vendor", "--check", str(tmp_path)).check().lines()[1].endswith("pep788.hpp: up to date")
    with open(tmp_path / "pep788.hpp", "ab") as stream:
        stream.write(b"// mine\n")
    assert "pep788.hpp: changed" in command("vendor", str(tmp_path)).check(1).err
    command("vendor", "--force", str(tmp_path)).check()
    command("vendor", "--check", "--cpp", str(tmp_path)).check()


@pytest.mark.parametrize("binding", ["pybind11", "nanobind"])
def test_vendor_copies_the_headers_for_a_binding(command, tmp_path, binding):
    """All that the header includes comes along, and a later run without the option keeps it up to date."""
    command("vendor", f"--{binding}", str(tmp_path)).check()
    names = ["pep788.h", "pep788.hpp", "pep788/binding.hpp", f"pep788/{binding}.hpp"]
    copied = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert copied == {*names, "pep788.LICENSE"}
    assert all((tmp_path / name).read_bytes() == (INCLUDE / name).read_bytes() for name in names)
    assert len(command("vendor", "--check", str(tmp_path)).check().lines()) == 5
    (tmp_path / "pep788" / "binding.hpp").write_text("// mine\n")
    assert "binding.hpp: changed" in command("vendor", str(tmp_path)).check(1).err


def test_vendor_into_a_file_fails_with_a_reason(command, tmp_path):
    (tmp_path / "file").write_text("")
    result = command("vendor", str(tmp_path / "file")).check(1)
    assert result.err.startswith("pep788: ")
    assert "Traceback" not in result.err


def test_vendor_into_no_folder_at_all_is_a_usage_error(command):
    """`pep788 vendor "$UNSET"`: not the current folder."""
    for empty in ("", "  "):
        result = command("vendor", empty).check(2)
        assert "argument DIR: it is empty; name a folder, or . for this one" in result.err


@pytest.mark.parametrize("name", ["pep788.h", "pep788.LICENSE"])
@pytest.mark.parametrize("target", ["a file of another project", "nothing"])
def test_vendor_never_replaces_a_link(command, tmp_path, name, target):
    folder, other = tmp_path / "vendored", tmp_path / "other.h"
    command("vendor", str(folder)).check()
    if target != "nothing":
        other.write_text("/* not ours */\n")
    (folder / name).unlink()
    (folder / name).symlink_to(other)
    result = command("vendor", str(folder)).check(1)
    assert result.err.startswith(f"pep788: {folder / name}: changed") and "--force" in result.err
    assert (folder / name).is_symlink()
    command("vendor", "--force", str(folder)).check()
    assert not (folder / name).is_symlink()
    assert not other.exists() or other.read_text() == "/* not ours */\n"


def test_vendor_leaves_a_link_to_the_same_header_alone(command, tmp_path):
    command("vendor", str(tmp_path)).check()
    shutil.move(str(tmp_path / "pep788.h"), str(tmp_path / "real.h"))
    (tmp_path / "pep788.h").symlink_to("real.h")
    command("vendor", str(tmp_path)).check()
    assert (tmp_path / "pep788.h").is_symlink()


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that not even root can write to")
def test_vendor_into_a_folder_that_cannot_be_written_names_the_file(command):
    result = command("vendor", "/proc").check(1)
    assert result.err == "pep788: /proc/pep788.h cannot be written: No such file or directory\n"


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write anywhere")
def test_vendor_into_a_read_only_folder_names_what_the_user_knows(command, tmp_path):
    tmp_path.chmod(0o500)
    result = command("vendor", str(tmp_path)).check(1)
    assert result.err == f"pep788: {tmp_path / 'pep788.h'} cannot be written: Permission denied\n"
    result = command("vendor", str(tmp_path / "deeper")).check(1)
    assert result.err == f"pep788: {tmp_path / 'deeper'}: Permission denied\n"


# --- demo -----------------------------------------------------------------------------------------------------


def test_demo_gets_all_its_arguments(package, tmp_path):
    """The demo is a package of its own; here only the way to it."""
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(
        "import sys, types\n"
        "demo = types.ModuleType('pep788.demo')\n"
        "demo.main = lambda argv: print(argv) or 1\n"
        "sys.modules['pep788.demo'] = demo\n"
        "from pep788.cli import main\n"
        "sys.exit(main(['demo', '--help', '--json', '-n', '3']))\n"
    )
    result = support.run_child([sys.executable, str(stand_in)], path=[package]).check(1)
    assert result.out == "['--help', '--json', '-n', '3']\n"


def test_demo_that_is_not_there_is_said_so(python):
    result = python("""
        import sys
        from pep788.cli import main
        sys.modules.pop("pep788.demo", None)
        import importlib
        real = importlib.import_module
        def missing(name, *rest):
            if name == "pep788.demo":
                raise ModuleNotFoundError("No module named 'pep788.demo'", name=name)
            return real(name, *rest)
        importlib.import_module = missing
        sys.exit(main(["demo"]))
    """).check(1)
    assert result.err.startswith("pep788: demo is not part of this installation")
