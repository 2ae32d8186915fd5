"""What cannot be read is named, with the reason and the right exit status: never a traceback, never a wait."""

from __future__ import annotations

import errno
import json
import os
import socket

import pytest
import unprivileged
from pep788_check import cli
from unprivileged import PAIR


@pytest.fixture
def nobody(checker):
    with unprivileged.folder() as folder:
        yield folder


def skipped(out):
    return sorted((skip["path"], skip["reason"]) for skip in json.loads(out)["skipped"])


def test_without_permission(nobody):
    """Files, folders that can neither be listed nor entered, folders that can be listed only, and what tools read."""
    for name in ("secret.c", "deep/x.c", "closed/x.c", "listed/x.c", "known.json", "sdist.tar.gz", "made.whl"):
        (nobody / name).parent.mkdir(exist_ok=True)
        (nobody / name).write_text(PAIR)
    for name in ("secret.c", "known.json", "sdist.tar.gz", "made.whl", "closed"):
        (nobody / name).chmod(0)
    (nobody / "listed").chmod(0o444)
    (nobody / "deep").chmod(0o555)
    commands = {
        "all": [".", "--format", "json"],
        "secret.c": ["secret.c"],
        "closed": ["closed"],
        "closed/x.c": ["closed/x.c"],
        "listed": ["listed"],
        "listed/x.c": ["listed/x.c"],
        "known.json": ["x.c", "--baseline", "known.json"],
        "sdist.tar.gz": ["sdist.tar.gz"],
        "made.whl": ["made.whl"],
        "deep/new.json": ["x.c", "--write-baseline", "deep/new.json"],
    }
    found = dict(zip(commands, unprivileged.run("check", nobody, *commands.values())))
    status, out, err = found.pop("all")
    assert (status, err) == (1, "")
    denied = "Permission denied"
    assert skipped(out) == [("closed", denied), ("listed/x.c", denied), ("secret.c", denied)]
    status, out, err = found.pop("listed")
    assert (status, err) == (0, "") and "listed/x.c: not checked: Permission denied" in out
    for name, (status, _, err) in found.items():
        more = "; make it with --write-baseline known.json" if name == "known.json" else ""
        assert (name, status, err) == (name, 2, f"pep788: {name}: {denied}{more}\n")


def test_configuration_without_permission(nobody):
    (nobody / "pyproject.toml").write_text("")
    (nobody / "pyproject.toml").chmod(0)
    ((status, out, err),) = unprivileged.run("check", nobody, ["x.c"])
    assert (status, out) == (2, "") and err.endswith("/pyproject.toml: Permission denied\n")


# --- what no permission is needed for


def strange(folder, kind):
    """A file of that kind, and why it cannot be read."""
    path = folder / "strange.c"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a socket":
        listener = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket may not be long
        listener.bind("strange.c")
        os.chdir(here)
        listener.close()
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a link to nothing":
        path.symlink_to("nothing.c")
        return kind
    elif kind == "a loop":
        path.symlink_to("strange.c")
        return os.strerror(errno.ELOOP)
    elif kind == "a folder":
        path.mkdir()
        return None
    return "not a regular file"


KINDS = ["a pipe", "a socket", "a device", "a link to nothing", "a loop", "a folder"]


@pytest.mark.skipif(os.name != "posix", reason="there are no such files here")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file(checker, tmp_path, capsys, kind):
    reason = strange(tmp_path, kind)
    (tmp_path / "x.c").write_text(PAIR)
    assert cli.main([str(tmp_path), "--format", "json"]) == 1
    assert skipped(capsys.readouterr().out) == ([(f"{tmp_path}/strange.c", reason)] if reason else [])
    assert cli.main([str(tmp_path / "strange.c"), "--isolated"]) == (2 if reason else 0)
    nothing = f"pep788: nothing to check in {tmp_path}/strange.c: {cli.NOTHING}\n"
    assert capsys.readouterr().err == (f"pep788: {tmp_path}/strange.c: {reason}\n" if reason else nothing)


@pytest.mark.skipif(os.name != "posix", reason="there are no such files here")
@pytest.mark.parametrize("becomes", ["a pipe", "a link to nothing", "nothing"])
def test_a_file_that_becomes_another_while_it_is_opened(checker, tmp_path, monkeypatch, becomes):
    from pep788_check import engine, sources

    path = tmp_path / "strange.c"
    path.write_text(PAIR)
    known = path.stat()
    path.unlink()
    if becomes != "nothing":
        strange(tmp_path, becomes)
    monkeypatch.setattr(sources.os, "walk", lambda top, **more: [(str(tmp_path), [], ["strange.c"])])
    real = os.stat
    monkeypatch.setattr(sources.os, "stat", lambda which, **more: known if str(which) == str(path) else real(which, **more))
    report = engine.check(engine.Options(paths=(str(tmp_path),)))
    reasons = {"a pipe": "not a regular file", "a link to nothing": "a link to nothing", "nothing": os.strerror(2)}
    assert [(skip.path, skip.reason) for skip in report.skipped] == [(str(path), reasons[becomes])]


def test_a_file_that_is_longer_than_it_said(checker, monkeypatch, tmp_path):
    """It grows while it is read, or is one of /proc, which say 0."""
    from pep788_check import engine, sources

    (tmp_path / "x.c").write_text(PAIR)
    monkeypatch.setattr(sources, "MOST_SOURCE_BYTES", 100)
    report = engine.check(engine.Options(paths=(str(tmp_path),)))
    assert report.findings == [] and [skip.reason for skip in report.skipped] == ["larger than 0 MiB"]


def test_a_file_of_60_megabytes(checker, tmp_path, capsys):
    (tmp_path / "x.c").write_text(PAIR)
    with (tmp_path / "large.c").open("wb") as file:
        file.write(PAIR.encode())
        file.truncate(60 * 1024 * 1024)
    assert cli.main([str(tmp_path), "--format", "json"]) == 1
    assert skipped(capsys.readouterr().out) == [(f"{tmp_path}/large.c", "larger than 8 MiB")]
    assert cli.main([str(tmp_path / "large.c")]) == 2


@pytest.mark.parametrize("name", ["x.c", "x.pyx"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_wide_characters(checker, tmp_path, capsys, name, encoding):
    source = PAIR if name == "x.c" else "cdef void f() noexcept with gil:\n    pass\n"
    (tmp_path / name).write_bytes(source.encode(encoding))
    assert cli.main([str(tmp_path / name)]) == 2
    assert "UTF-16: only UTF-8" in capsys.readouterr().err


def test_cython_with_a_byte_order_mark(checker):
    source = b"\xef\xbb\xbf# caf\xc3\xa9\ncdef void f() noexcept with gil:  # want: P121\n    pass\n"
    report = checker.report({"x.pyx": source})
    assert checker.found(report) == [("x.pyx", 2, "P121")] and report.skipped == []


def test_cython_that_does_not_parse_is_not_clean(checker, tmp_path, capsys):
    (tmp_path / "x.pyx").write_text("cdef void f( with gil:\n")
    (tmp_path / "latin.pyx").write_bytes(b"cdef void f() noexcept with gil:\n    x = '\xe9'\n")
    assert cli.main([str(tmp_path)]) == 0
    for name, reason in (("x.pyx", "Cython's parser: "), ("latin.pyx", "not UTF-8")):
        assert cli.main([str(tmp_path / name)]) == 2
        assert f"{name}: {reason}" in capsys.readouterr().err


def test_a_folder_that_is_gone(checker, tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    (tmp_path / "x.c").write_text(PAIR)
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli.main([str(tmp_path / "x.c")]) == 1
    assert cli.main(["x.c"]) == 2
    assert "Traceback" not in capsys.readouterr().err
