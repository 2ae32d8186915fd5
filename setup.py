"""The C extension and the probe of `pep788 stress`; everything else is in pyproject.toml."""

from __future__ import annotations

import sys

from setuptools import Extension, setup

# pthread: glibc before 2.34 keeps the thread functions in a library of its own.
FLAGS: list[str] = [] if sys.platform == "win32" else ["-pthread"]

EXTENSIONS = [
    Extension(
        "pep788._core",
        sources=["src/pep788/_core.c"],
        include_dirs=["src/pep788/include"],
        depends=["src/pep788/include/pep788.h"],
        # Python guards promise more than the native API (fork, reports, no starvation),
        # so they never use it.
        define_macros=[("PEP788_ALWAYS", "1")],
        extra_compile_args=FLAGS,
        extra_link_args=FLAGS,
    )
]
if sys.platform == "linux":
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

setup(ext_modules=EXTENSIONS)
