"""Builds and loads the modules that `worker.py` measures with; runs on the interpreter that is measured."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

SOURCES = Path(__file__).resolve().parent / "c"
# As distributions and setuptools build extensions; assertions are for tests.
FLAGS = ("-O2", "-DNDEBUG", "-fPIC", "-pthread", "-fvisibility=hidden")


class BuildError(Exception):
    """A module could not be built; the message is the reason shown in the table."""


@dataclasses.dataclass
class Builder:
    """Compiles into `folder`; what was built before from the same text by the same command is used again."""

    folder: Path
    include: Path
    commands: list[str] = dataclasses.field(default_factory=list)

    def module(
        self,
        name: str,
        sources: Sequence[Path],
        *,
        defines: Sequence[str] = (),
        includes: Sequence[Path] = (),
        cplusplus: bool = False,
    ) -> Path:
        """The folder with the extension module `name`."""
        command = [*compiler(cplusplus), *FLAGS, *(["-std=c++17"] if cplusplus else ["-std=gnu11"])]
        command += ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
        command += [f"-D{define}" for define in defines]
        where = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
        command += [f"-I{path}" for path in [*sorted(where), self.include, SOURCES, *includes]]
        command += map(str, sources)
        seen = hashlib.sha256("\0".join([sys.version, *command]).encode())
        for path in [*sources, *sorted(SOURCES.glob("*.h")), *sorted(self.include.glob("*.h"))]:
            seen.update(path.read_bytes())
        target = self.folder / f"{name}-{seen.hexdigest()[:16]}"
        output = f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        self.commands.append(shlex.join([*command, "-o", output]))
        if (target / output).exists():
            return target
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            self._compile(name, [*command, "-o", str(Path(scratch, output))])
            target.mkdir(exist_ok=True)
            Path(scratch, output).replace(target / output)
        return target

    def _compile(self, name: str, command: Sequence[str]) -> None:
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        except OSError as error:
            raise BuildError(f"{name} was not built: {error}") from error
        if done.returncode:
            print(f"{shlex.join(command)}\n{done.stdout}", file=sys.stderr, flush=True)
            errors = [line for line in done.stdout.splitlines() if "error" in line]
            raise BuildError(f"{name} does not compile: {(errors or ['see the log'])[0]}")


def compiler(cplusplus: bool) -> list[str]:
    variable, default = ("CXX", "c++") if cplusplus else ("CC", "cc")
    return shlex.split(os.environ.get(variable) or sysconfig.get_config_var(variable) or default)[:1]


def load(name: str, folder: Path) -> Any:
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def pairs(builder: Builder, *, always: bool) -> Any:
    """The contenders in C: ours, or with `always` off on 3.15+ the native functions."""
    name = "bench_ours" if always else "bench_default"
    defines = [f"MODULE={name}", *(["PEP788_ALWAYS"] if always else []), *(["BENCH_KEPT"] if has_kept(builder) else [])]
    return load(name, builder.module(name, [SOURCES / "pairs.c"], defines=defines))


def has_kept(builder: Builder) -> bool:
    return "Pep788_EnsureKept" in (builder.include / "pep788.h").read_text(encoding="utf-8")


def close(builder: Builder, *, always: bool) -> Path:
    defines = ["PEP788_ALWAYS"] if always else []
    return builder.module("bench_close", [SOURCES / "close.c"], defines=defines)


def pybind11(builder: Builder) -> Any:
    library = need("pybind11")
    includes = [Path(library.get_include())]
    folder = builder.module("bench_pybind11", [SOURCES / "pybind11.cpp"], includes=includes, cplusplus=True)
    return load("bench_pybind11", folder)


def nanobind(builder: Builder) -> Any:
    library = need("nanobind")
    root = Path(library.include_dir()).parent
    # nanobind has a compiled part, which its CMake functions add to each module: here it is one more source.
    sources = [SOURCES / "nanobind.cpp", root / "src" / "nb_combined.cpp"]
    includes = [root / "include", root / "src", root / "ext" / "robin_map" / "include"]
    folder = builder.module("bench_nanobind", sources, includes=includes, cplusplus=True)
    return load("bench_nanobind", folder)


def cffi(builder: Builder, function: object) -> tuple[Any, Any]:
    """A C function that calls `function`, after its FFI: `extern "Python"`, cffi's recommended and faster kind."""
    library = need("cffi")
    ffi = library.FFI()
    ffi.cdef('extern "Python" void bench_tick(void);')
    ffi.set_source("bench_cffi", "")
    builder.folder.mkdir(parents=True, exist_ok=True)
    source = builder.folder / "bench_cffi.c"
    ffi.emit_c_code(str(source))
    module = load("bench_cffi", builder.module("bench_cffi", [source]))
    module.ffi.def_extern(name="bench_tick")(function)
    return module.ffi, module.ffi.addressof(module.lib, "bench_tick")


def need(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise BuildError(f"{name} is not installed here ({error})") from error


def version(name: str) -> str:
    """Of an installed distribution, or nothing."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
