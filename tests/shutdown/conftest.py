"""The package under test, as fixtures."""

from installed import command, package, python  # noqa: F401
