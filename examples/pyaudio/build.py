"""Build PyAudio 0.2.14 twice for each interpreter: as published, and ported to PEP 788.

The sources are never kept in this repository: the sdist comes from PyPI, is checked against its SHA-256,
unpacked under the build directory, patched, and given a copy of ``pep788.h``.  PyAudio's own ``setup.py``
then builds it, unchanged, so that what is proved is what a maintainer would ship.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
HEADER = REPOSITORY / "src" / "pep788" / "include" / "pep788.h"
PATCH = HERE / "pyaudio-0.2.14-pep788.patch"
BUILD = REPOSITORY / "build" / "pyaudio"
SDIST = "PyAudio-0.2.14.tar.gz"
SHA256 = "78dfff3879b4994d1f4fc6485646a57755c6ee3c19647a491f790a0895bd2f87"
TOOLS = ("setuptools==80.9.0", "wheel==0.45.1")  # newer setuptools still claims 3.9 but fails to import there

PACKAGES = {
    "cc": "a C compiler (Debian: apt install gcc; Fedora: dnf install gcc; macOS: xcode-select --install)",
    "Python.h": "the headers of this Python (Debian: apt install python3-dev; Fedora: dnf install python3-devel; "
    "macOS: brew install python)",
    "portaudio.h": "the PortAudio headers (Debian: apt install portaudio19-dev; Fedora: dnf install portaudio-devel; "
    "macOS: brew install portaudio)",
    "pip": "pip for this Python (Debian: apt install python3-pip; Fedora: dnf install python3-pip; "
    "elsewhere: python -m ensurepip)",
    "patch": "the patch program (Debian: apt install patch; Fedora: dnf install patch; macOS has it)",
}

# Run by the interpreter that is built for: it alone knows its compiler and where its headers are.
PROBE = r"""
import importlib.util, json, os, shlex, shutil, subprocess, sys, sysconfig
cc = shlex.split(sysconfig.get_config_var("CC") or "cc")
paths = sysconfig.get_paths()
dirs = [paths["include"], paths["platinclude"], "/usr/local/include", "/opt/homebrew/include"]
def has(header):
    run = subprocess.run(cc + ["-I" + d for d in dirs] + ["-E", "-x", "c", "-"], input=b"#include <%s>\n" % header,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return run.returncode == 0
missing = []
if shutil.which(cc[0]) is None:
    missing.append("cc")
else:
    missing += [name for name in ("Python.h", "portaudio.h") if not has(name.encode())]
if importlib.util.find_spec("pip") is None:
    missing.append("pip")
print(json.dumps({
    "version": "%d.%d.%d" % sys.version_info[:3] + ("" if sys.version_info[3] == "final" else sys.version_info[3]),
    "soabi": sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag,
    "cc": cc[0],
    "missing": missing,
}))
"""


class BuildError(Exception):
    """Something the user has to install or correct; the message says what."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way of building PyAudio."""

    name: str
    patched: bool
    defines: tuple[str, ...] = ()
    recompiled: bool = False  # contract F11: published sources, `-include pep788.h -DPEP788_REPLACE_GILSTATE`

    @property
    def needs_header(self) -> bool:
        return self.patched or self.recompiled


BEFORE = Variant("before", patched=False)
AFTER = Variant("after", patched=True)
AFTER_ALWAYS = Variant("after-always", patched=True, defines=("PEP788_ALWAYS",))
RECOMPILED = Variant("recompiled", patched=False, recompiled=True)


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """An interpreter that was asked and can build."""

    command: str
    version: str
    soabi: str

    @property
    def tag(self) -> str:
        return f"{self.version}-{self.soabi}"

    @property
    def label(self) -> str:
        """Version, and ``d`` or ``t`` when the binary interface is of a debug or free-threaded build."""
        parts = self.soabi.split("-")
        flags = "".join(letter for letter in "td" if len(parts) > 1 and letter in parts[1])
        return self.version + flags


def run(argv: list[str], *, what: str, env: dict[str, str] | None = None, cwd: pathlib.Path | None = None) -> None:
    """Run a build step quietly; show all of its output when it fails."""
    done = subprocess.run(
        argv, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if done.returncode != 0:
        raise BuildError(f"{what} failed with status {done.returncode}:\n{' '.join(argv)}\n{done.stdout}")


def examine(command: str) -> Interpreter:
    """Ask an interpreter what it is, and refuse it by name when something to build with is missing."""
    if shutil.which(command) is None:
        raise BuildError(f"{command}: no such interpreter")
    command = os.path.abspath(command) if os.path.dirname(command) else command
    done = subprocess.run([command, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise BuildError(f"{command}: cannot be run:\n{done.stderr}")
    answer = json.loads(done.stdout)
    if answer["missing"]:
        needed = "\n".join(f"  - {PACKAGES[name]}" for name in answer["missing"])
        raise BuildError(f"{command} (Python {answer['version']}): missing, please install:\n{needed}")
    return Interpreter(command, answer["version"], answer["soabi"])


def fetch_sdist(build: pathlib.Path) -> pathlib.Path:
    """Download the sdist unless it is there, and check that it is the one the patch was made for."""
    sdist = build / SDIST
    if not sdist.exists():
        build.mkdir(parents=True, exist_ok=True)
        download = ["download", "--no-binary", "PyAudio", "--no-deps", "-d", str(build), "PyAudio==0.2.14"]
        run([sys.executable, "-m", "pip", *download], what="downloading PyAudio 0.2.14 from PyPI")
    digest = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if digest != SHA256:
        raise BuildError(f"{sdist}: SHA-256 is {digest}, expected {SHA256}; delete the file and try again")
    return sdist


def fetch_tools(interpreter: Interpreter, build: pathlib.Path) -> pathlib.Path:
    """Install what PyAudio's setup.py needs, once a Python version.

    The running Python's pip fetches them for the other: an interpreter in a chroot often has no network, and
    pip's build isolation would fetch them anew for each build.
    """
    minor = ".".join(interpreter.version.split(".")[:2])
    tools = build / f"tools-{minor}"
    if not (tools / "setuptools").is_dir():
        which = ["--only-binary", ":all:", "--python-version", minor, "--no-deps", "--target", str(tools)]
        install = [sys.executable, "-m", "pip", "install", *which, *TOOLS]
        run(install, what=f"installing setuptools for {minor}")
    return tools


def prepare_sources(sdist: pathlib.Path, variant: Variant, header: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
    """Unpack, patch and vendor the header into ``target``; returns the directory with ``setup.py``."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(target, filter="data")
        else:  # 3.9-3.11 before their security releases of 2023; the SHA-256 says what is in the archive
            archive.extractall(target)
    tree = target / SDIST[: -len(".tar.gz")]
    if variant.patched:
        if shutil.which("patch") is None:
            raise BuildError(f"missing, please install:\n  - {PACKAGES['patch']}")
        run(["patch", "-p1", "--fuzz=0", "-i", str(PATCH)], what="applying the port", cwd=tree)
    if variant.needs_header:
        shutil.copyfile(header, tree / "src" / "pyaudio" / "pep788.h")  # what `pep788 vendor src/pyaudio` does
    return tree


def compiler_flags(variant: Variant, tree: pathlib.Path) -> str:
    flags = ["-O2", "-g"] + [f"-D{name}" for name in variant.defines]
    if variant.recompiled:
        # The forced include brings Python.h in before the sources can define PY_SSIZE_T_CLEAN.  From 3.10 on the header
        # does it for them; on 3.9 it cannot know, and "z#i" would write an int into a Py_ssize_t.
        flags += ["-DPY_SSIZE_T_CLEAN=", "-DPEP788_REPLACE_GILSTATE"]
        flags += ["-include", str(tree / "src" / "pyaudio" / "pep788.h")]
    return " ".join(flags)


def fingerprint(interpreter: Interpreter, variant: Variant, header: pathlib.Path) -> str:
    """Everything a finished build depends on."""
    parts = [interpreter.tag, interpreter.command, repr(variant), SHA256, pathlib.Path(__file__).read_text("utf-8")]
    if variant.patched:
        parts.append(PATCH.read_text("utf-8"))
    if variant.needs_header:
        parts.append(header.read_text("utf-8"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def build(
    interpreter: Interpreter, variant: Variant, header: pathlib.Path = HEADER, under: pathlib.Path = BUILD
) -> pathlib.Path:
    """Build one variant for one interpreter; returns the directory to put on ``PYTHONPATH``."""
    if variant.needs_header and not header.is_file():
        raise BuildError(f"{header}: the header is not there; pass --header PATH")
    home = under / interpreter.tag
    site, stamp, wanted = home / variant.name, home / f"{variant.name}.built", fingerprint(interpreter, variant, header)
    if stamp.exists() and stamp.read_text() == wanted:
        return site
    stamp.unlink(missing_ok=True)
    shutil.rmtree(site, ignore_errors=True)
    pip = [interpreter.command, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--no-deps"]
    tools = fetch_tools(interpreter, under)
    tree = prepare_sources(fetch_sdist(under), variant, header, home / f"src-{variant.name}")
    env = {**os.environ, "PYTHONPATH": str(tools), "CFLAGS": compiler_flags(variant, tree)}
    install = [*pip, "--no-build-isolation", "--no-index", "--no-cache-dir", "--target", str(site), str(tree)]
    run(install, what=f"{interpreter.label}: building PyAudio ({variant.name})", env=env)
    stamp.write_text(wanted)
    return site


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments ``build.py`` and ``prove.py`` have in common."""
    parser.add_argument("--python", action="append", metavar="PATH", help="repeat for more (default: this one)")
    parser.add_argument("--header", type=pathlib.Path, default=HEADER, metavar="FILE", help="pep788.h to vendor")
    parser.add_argument("--build-dir", type=pathlib.Path, default=BUILD, metavar="DIR", help="default: build/pyaudio")
    parser.add_argument("--always", action="store_true", help="also the port with PEP788_ALWAYS, as `after-always`")
    parser.add_argument(
        "--recompiled", action="store_true", help="also the published sources with PEP788_REPLACE_GILSTATE"
    )


def chosen_variants(options: argparse.Namespace) -> list[Variant]:
    return [BEFORE, AFTER] + [AFTER_ALWAYS] * options.always + [RECOMPILED] * options.recompiled


def main() -> int:
    parser = argparse.ArgumentParser(description="Build PyAudio 0.2.14, as published and ported to PEP 788.")
    add_arguments(parser)
    options = parser.parse_args()
    failed = False
    for command in options.python or [sys.executable]:
        try:
            interpreter = examine(command)
            for variant in chosen_variants(options):
                print(f"{interpreter.label:>8}  {variant.name:<13}", end="  ", flush=True)
                print(build(interpreter, variant, options.header.resolve(), options.build_dir.resolve()))
        except BuildError as error:
            print(f"build.py: {error}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
