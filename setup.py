"""The C extensions and the probe of `pep788 stress`; everything else is in pyproject.toml."""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

# pthread: glibc before 2.34 keeps the thread functions in a library of its own.
FLAGS: list[str] = [] if sys.platform == "win32" else ["-pthread"]


def with_header(files: list[str], compile_flags: Sequence[str] = (), link_flags: Sequence[str] = ()) -> Extension:
    return Extension(
        f"pep788.{files[0]}",
        sources=[f"src/pep788/{file}.c" for file in files],
        include_dirs=["src/pep788/include"],
        depends=["src/pep788/_core.h", "src/pep788/include/pep788.h"],
        # Python guards promise more than the native API (fork, reports, no starvation),
        # so they never use it.
        define_macros=[("PEP788_ALWAYS", "1")],
        extra_compile_args=[*FLAGS, *compile_flags],
        extra_link_args=[*FLAGS, *link_flags],
    )


def pkg_config(option: str) -> list[str]:
    """What pkg-config says about libffi; nothing if it does not know it."""
    program = shutil.which("pkg-config")
    if program is None:
        return []
    done = subprocess.run([program, option, "libffi"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return shlex.split(done.stdout) if done.returncode == 0 else []


FFI_COMPILE = pkg_config("--cflags")
FFI_LINK = pkg_config("--libs") or (["ffi.lib"] if sys.platform == "win32" else ["-lffi"])
FFI_PROBE = """
#if defined(__has_include) && !__has_include(<ffi.h>)
#include <ffi/ffi.h>
#else
#include <ffi.h>
#endif
"""
CALLBACK = with_header(["_callback"], FFI_COMPILE, FFI_LINK)
EXTENSIONS = [with_header(["_core", "_watchdog"]), CALLBACK]
if sys.platform == "linux":
    # Each callback asks for thread-local data eight times: 2 ns each without this. musl refuses such a module.
    STATIC_TLS = ["-ftls-model=initial-exec"] if platform.libc_ver()[0] == "glibc" else []
    EXTENSIONS.append(with_header(["_shield"], STATIC_TLS, ["-ldl"]))  # dl: in libc itself from glibc 2.34 on
    # No module: a library for LD_PRELOAD, which must not need Python. -fexceptions: pthread_exit unwinds through it.
    EXTENSIONS.append(
        Extension(
            "pep788.stress._probe",
            sources=["src/pep788/stress/_probe.c"],
            libraries=["dl"],
            extra_compile_args=[*FLAGS, "-std=c11", "-fexceptions"],
            extra_link_args=FLAGS,
            optional=True,  # stress works without it, and says what it then cannot see
        )
    )


class Build(build_ext):
    """Leaves pep788.callback out where libffi's headers are not installed."""

    def build_extensions(self) -> None:
        if not self.has_ffi():
            print("pep788: ffi.h was not found, so pep788.callback is not built; the rest is", file=sys.stderr)
            self.extensions = [what for what in self.extensions if what is not CALLBACK]
        super().build_extensions()

    def has_ffi(self) -> bool:
        with tempfile.TemporaryDirectory() as scratch:
            probe = Path(scratch, "pep788_probe_ffi.c")
            probe.write_text(FFI_PROBE)
            try:
                self.compiler.compile([str(probe)], output_dir=scratch, extra_preargs=FFI_COMPILE)
            except CompileError:
                return False
        return True


setup(ext_modules=EXTENSIONS, cmdclass={"build_ext": Build})
