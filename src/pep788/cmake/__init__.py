"""The CMake package pep788; a module so that scikit-build-core finds it by its entry point."""
