"""No dependency at all: the header is a file of the project, put there by `pep788 vendor vendor`."""

from setuptools import Extension, setup

FLAGS = ["-pthread"]  # glibc before 2.34 keeps the thread functions in a library of its own

setup(
    ext_modules=[
        Extension(
            "example",
            ["example.c"],
            include_dirs=["vendor"],
            depends=["vendor/pep788.h"],
            extra_compile_args=FLAGS,
            extra_link_args=FLAGS,
        )
    ]
)
