"""The C extensions; everything else is in pyproject.toml."""

from __future__ import annotations

import sys

from setuptools import Extension, setup

# pthread: glibc before 2.34 keeps the thread functions in a library of its own.
FLAGS: list[str] = [] if sys.platform == "win32" else ["-pthread"]

SHIELD: list[Extension] = []
if sys.platform.startswith("linux"):
    SHIELD.append(
        Extension(
            "pep788._shield",
            sources=["src/pep788/_shield.c"],
            include_dirs=["src/pep788/include"],
            depends=["src/pep788/include/pep788.h"],
            extra_compile_args=FLAGS,
            extra_link_args=[*FLAGS, "-ldl"],  # in libc itself from glibc 2.34 on
        )
    )

setup(
    ext_modules=[
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
        ),
        *SHIELD,
    ]
)
