"""What cannot be read or written is named, with the reason and the right exit status: never a traceback."""

from __future__ import annotations

import errno
import os
import pathlib

import pytest
import unprivileged
from pep788_tools.check import sources
from pep788_tools.migrate import cli, writing
from unprivileged import PAIR


def test_without_permission(migrator):
    with unprivileged.folder() as folder:
        for name in ("open.c", "secret.c", "closed/x.c", "fixed/x.c", "decisions.toml", "setup.py"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(PAIR)
        (folder / "setup.py").write_text("")
        for name in ("secret.c", "decisions.toml", "closed", "setup.py"):
            (folder / name).chmod(0)
        (folder / "fixed").chmod(0o555)
        (folder / "open.c").chmod(0o444)
        commands = {
            "all": ["."],
            "secret.c": ["secret.c"],
            "closed": ["closed"],
            "closed/x.c": ["closed/x.c"],
            "decisions.toml": ["open.c", "--decisions", "decisions.toml"],
            "fixed": ["fixed", "--apply", "--allow-dirty"],
            "open.c": ["open.c", "--apply", "--allow-dirty"],
            "vendor": ["open.c", "--apply", "--allow-dirty", "--vendor", "fixed"],
        }
        found = dict(zip(commands, unprivileged.run("migrate", folder, *commands.values())))
        before = {name: (folder / name).read_text() for name in ("open.c", "fixed/x.c")}
        assert before == {"open.c": PAIR, "fixed/x.c": PAIR}
        assert os.listdir(folder / "fixed") == ["x.c"]
    status, out, err = found.pop("all")
    assert status == 0 and "+++ b/open.c" in out
    assert "secret.c: skipped: Permission denied" in err and "closed: skipped: Permission denied" in err
    assert all(status == 2 for status, _, _ in found.values()), found
    denied = "Permission denied"
    for name in ("secret.c", "closed"):
        assert found[name][2].endswith(f"pep788: {name}: {denied}\n")
    assert f"closed/x.c: {denied}" in found["closed/x.c"][2]
    assert found["decisions.toml"][2].startswith("pep788: decisions.toml: ")
    for name in ("fixed", "open.c"):  # a folder that nothing can be put into, a file that is not this user's
        assert found[name][2].endswith(f"{name.replace('fixed', 'fixed/x.c')} cannot be written: {denied}; nothing was\n")
    assert denied in found["vendor"][2]


def test_all_files_are_written_or_none(migrator, monkeypatch, tmp_path):
    """The disk is full, or the like, at the second of two."""
    migrator.write({"a.c": PAIR, "b.c": PAIR})
    real = writing.shutil.copymode
    monkeypatch.setattr(writing.shutil, "copymode", lambda old, new: real(old, new) if old.endswith("a.c") else real("/no/such", new))
    report = migrator.report({}, 'view = "view"')
    assert len(report.after) == 2
    with pytest.raises(writing.NotWritten, match="b.c cannot be written: No such file or directory; nothing was"):
        writing.write(report)
    assert sorted(os.listdir(tmp_path)) == ["a.c", "b.c", "decisions.toml"]
    assert (tmp_path / "a.c").read_text() == PAIR


def test_a_file_that_changes_while_it_is_looked_at(migrator, tmp_path, monkeypatch):
    """It is read once: what is judged is what is edited, and nothing is written over what it has become."""
    real = sources._read

    def read(path: pathlib.Path, shown: str):
        found = real(path, shown)
        path.write_text("/* changed */\n" + PAIR)
        return found

    monkeypatch.setattr(sources, "_read", read)
    report = migrator.report({"x.c": PAIR}, 'view = "view"')
    (after,) = report.after.values()
    assert after.startswith(b"#include <Python.h>\n#include <pep788.h>\nstatic PyInterpreterView")
    with pytest.raises(writing.NotWritten, match="has changed while it was looked at"):
        writing.write(report)
    assert [site.outcome.value for site in report.sites] == ["migrated"]


@pytest.mark.skipif(os.name != "posix", reason="there are no such files here")
def test_what_is_no_file(migrator, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.c")
    (tmp_path / "nothing.c").symlink_to("there.c")
    (tmp_path / "loop.c").symlink_to("loop.c")
    (tmp_path / "zero.c").symlink_to("/dev/zero")
    report = migrator.report({"x.c": PAIR}, 'view = "view"')
    assert [site.outcome.value for site in report.sites] == ["migrated"]
    reasons = {"pipe.c": "not a regular file", "nothing.c": "a link to nothing", "loop.c": os.strerror(errno.ELOOP), "zero.c": "not a regular file"}
    assert {skip.path.rsplit("/", 1)[1]: skip.reason for skip in report.skipped} == reasons
    for name, reason in {**reasons, "pipe.c": "is no file or folder", "zero.c": "is no file or folder"}.items():
        with pytest.raises(SystemExit) as end:
            cli.main([str(tmp_path / name)])
        assert end.value.code == 2 and reason in capsys.readouterr().err


@pytest.mark.parametrize("encoding, reason", [("utf-16", "UTF-16"), ("utf-16-be", "UTF-16")])
def test_what_was_named_and_cannot_be_parsed_is_no_success(migrator, tmp_path, capsys, encoding, reason):
    (tmp_path / "x.c").write_bytes(PAIR.encode(encoding))
    assert cli.main([str(tmp_path / "x.c")]) == 2
    assert reason in capsys.readouterr().err
    assert cli.main([str(tmp_path)]) == 0


@pytest.mark.parametrize("name", ["x.txt", "x.tar.gz", "x.so"])
def test_another_kind_of_file(migrator, tmp_path, capsys, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(SystemExit) as end:
        cli.main([str(tmp_path / name)])
    err = capsys.readouterr().err
    assert end.value.code == 2 and "is no kind of file that can be migrated (.c, " in err
    assert ("is to be unpacked first" in err) == (name == "x.tar.gz")


NESTED = [("{", "}"), ("(", ")"), ("if (x) ", ";"), ("#if X\n", "\n#endif"), ("[", "]"), ("else ", ""), ("*", ""), ("\\\n", "")]


@pytest.mark.parametrize("opening, closing", NESTED)
@pytest.mark.parametrize("name", ["x.c", "x.cpp", "x.pyx"])
def test_nesting_without_end(migrator, name, opening, closing):
    body = "PyGILState_STATE s = PyGILState_Ensure(); gil " + opening * 5000 + closing * 5000
    report = migrator.report({name: f"void f(void) {{ {body} PyGILState_Release(s); }}"}, 'view = "view"')
    assert report.after == {} and (report.skipped or report.sites)


def test_macros_without_end(migrator):
    chain = "".join(f"#define A{n} A{n + 1}\n" for n in range(2000)) + "#define A2000 goto out\n"
    lock = "#define LOCK A0; PyGILState_STATE s = PyGILState_Ensure();\n"
    report = migrator.report({"x.c": chain + lock + "void f(void) { LOCK PyGILState_Release(s); out: ; }\n"}, 'view = "view"')
    assert report.after == {}
    assert "A100 is reached through more than 100 macros" in report.sites[0].reason
