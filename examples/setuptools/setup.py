"""setuptools and Cython: pep788 is needed for building only."""

import pep788
from setuptools import Extension, setup

FLAGS = ["-pthread"]  # glibc before 2.34 keeps the thread functions in a library of its own

setup(
    ext_modules=[
        Extension(
            "example",
            ["example.pyx"],
            include_dirs=[pep788.get_include()],
            extra_compile_args=FLAGS,
            extra_link_args=FLAGS,
        )
    ]
)
