"""The ways into the shield: `pep788 shield ...` and `PEP788_SHIELD=1`."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import sys
import venv
from typing import Callable

import pytest
import support
from installed import build_package

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is a shield on Linux only")

SAYS = "import sys; from pep788 import shield; print(shield.is_enabled(), sys.argv[1:])"


@pytest.fixture(scope="module")
def package() -> pathlib.Path:
    return build_package()


@pytest.fixture
def shield(package: pathlib.Path) -> Callable[..., support.Result]:
    """Run `pep788 shield` with these arguments."""

    def run(*words: str, **env: str) -> support.Result:
        argv = [sys.executable, "-m", "pep788", "shield", *words]
        return support.run_child(argv, path=[package], env={"PEP788_SHIELD": None, **env})

    return run


@pytest.fixture
def app(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "app.py"
    path.write_text(SAYS + "\nsys.exit(3)\n")
    return path


def test_a_program_gets_its_own_arguments_and_gives_its_status(
    shield: Callable[..., support.Result], app: pathlib.Path
) -> None:
    assert shield("--", sys.executable, str(app), "--report", "-m", "x").check(3).out == "True ['--report', '-m', 'x']\n"
    assert shield(str(app), "--limit", "1").check(3).out == "True ['--limit', '1']\n"


def test_a_module(shield: Callable[..., support.Result], app: pathlib.Path) -> None:
    result = shield("-m", "app", "one", PYTHONPATH=os.pathsep.join([str(app.parent), str(build_package())]))
    assert result.check(3).out == "True ['one']\n"


def test_a_console_script(shield: Callable[..., support.Result], app: pathlib.Path) -> None:
    script = app.with_suffix("")
    script.write_text(f"#!{sys.executable}\n{app.read_text()}")
    script.chmod(0o755)
    assert shield("--limit", "2", str(script), "one").check(3).out == "True ['one']\n"


def test_the_report(shield: Callable[..., support.Result], app: pathlib.Path) -> None:
    result = shield("--report", "--", sys.executable, str(app)).check(3)
    assert "pep788: shield on: " in result.err and "PyGILState_Ensure" not in result.out


def test_a_sitecustomize_that_was_there_still_runs(
    shield: Callable[..., support.Result], app: pathlib.Path, package: pathlib.Path
) -> None:
    (app.parent / "sitecustomize.py").write_text("print('there before')\n")
    path = os.pathsep.join([str(app.parent), str(package)])
    assert shield(str(app), PYTHONPATH=path).check(3).out.endswith("there before\nTrue []\n")


def test_without_a_sitecustomize_there_is_none(shield: Callable[..., support.Result]) -> None:
    """As without the shield: the name is free, and our folders are not on the path."""
    if importlib.util.find_spec("sitecustomize") is not None:
        pytest.skip("this interpreter has a sitecustomize of its own")
    code = "import sys; print('sitecustomize' in sys.modules, [p for p in sys.path if 'pep788/' in p])"
    assert shield("--", sys.executable, "-c", code).check().out == "False []\n"


def test_an_interpreter_without_pep788_says_so_and_goes_on(package: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "pep788.py").write_text("raise ModuleNotFoundError('not for this interpreter')\n")
    site = package / "pep788" / "shield" / "_site"
    result = support.run_child("print('ran')", path=[site, tmp_path], env={"PEP788_SHIELD": "1"}).check()
    assert result.out == "ran\n"
    assert result.err.endswith("cannot import pep788 (not for this interpreter); install it there\n")


@pytest.mark.parametrize(
    "words, complaint",
    [
        ([], "a command is missing"),
        (["--limit", "never", "--", "true"], "invalid number of seconds value: 'never'"),
        (["--limit", "-1", "--", "true"], "--limit"),
        (["--install", "--", "true"], "stand alone"),
        (["--install", "--uninstall"], "not allowed with"),
        (["-m"], "-m needs the name of a module"),
    ],
)
def test_wrong_usage(shield: Callable[..., support.Result], words: list[str], complaint: str) -> None:
    result = shield(*words).check(2)
    assert complaint in result.err and "usage: pep788 shield" in result.err


def test_a_command_that_is_not_there(shield: Callable[..., support.Result]) -> None:
    result = shield("--", "no-such-command").check(1)
    assert result.err == "pep788: no-such-command: no such command; check the name, or give its path\n"
    assert shield("--", "/").check(1).err == "pep788: / is a folder; name a program\n"


def test_help(shield: Callable[..., support.Result]) -> None:
    assert shield("--help").check().out.startswith("usage: pep788 shield [--limit SECONDS]")


def test_install_is_inert_without_the_variable_and_is_undone(package: pathlib.Path, tmp_path: pathlib.Path) -> None:
    venv.create(tmp_path, symlinks=True)
    python = tmp_path / "bin" / "python"

    def run(*words: str, **env: str) -> support.Result:
        return support.run_child([python, *words], path=[package], env={"PEP788_SHIELD": None, **env})

    (folder,) = tmp_path.glob("lib/python3*/site-packages")
    pth = folder / "pep788-shield.pth"
    run("-m", "pep788", "shield", "--install").check()
    assert pth.exists()
    loaded = "import sys; print('pep788' in sys.modules)"
    assert run("-W", "error", "-c", loaded).check().out == "False\n"
    assert run("-c", loaded, PEP788_SHIELD="0").check().out == "False\n"
    result = run("-W", "error", "-c", SAYS, PEP788_SHIELD="1").check()
    assert (result.out, result.err) == ("True []\n", "")
    result = run("-c", SAYS, PEP788_SHIELD="1", PEP788_SHIELD_LIMIT="nan").check()
    said = "pep788: shield is off: PEP788_SHIELD_LIMIT='nan' is not a number of seconds; give one like 5\n"
    assert (result.out, result.err) == ("False []\n", said)
    run("-m", "pep788", "shield", "--uninstall").check()
    assert not pth.exists()
    assert "is not there" in run("-m", "pep788", "shield", "--uninstall").check().out


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_platforms_refuse_in_one_sentence(package: pathlib.Path, platform: str) -> None:
    code = f"""if True:
        import sys
        from pep788 import shield
        from pep788.shield import _command
        sys.platform = {platform!r}
        try:
            shield.enable()
        except shield.ShieldError as error:
            print(error)
        sys.exit(_command.main(["--", "true"]))
    """
    result = support.run_child(code, path=[package]).check(1)
    assert result.out == f"there is no shield for {platform}, only for Linux: modules there must be recompiled or ported\n"
    assert result.err == f"pep788: {result.out}"
