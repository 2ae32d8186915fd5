"""Run CPython's own tests of sqlite3 with pysqlite3 in its place."""

import importlib
import importlib.util
import pkgutil
import sqlite3
import sys
import unittest

import pysqlite3

# test_regression of 3.12 crashes pysqlite3 0.6.1, migrated or not; test_dbapi and test_transactions need newer names.
# So does test_factory of 3.13.
NAMES = ("userfunctions", "hooks", "types") + (("factory",) if sys.version_info < (3, 13) else ())

for constant in dir(sqlite3):  # newer tests look at some when they are imported
    if constant.startswith("SQLITE_") and not hasattr(pysqlite3, constant):
        setattr(pysqlite3, constant, getattr(sqlite3, constant))
sys.modules["sqlite3"] = pysqlite3
sys.modules["sqlite3.dbapi2"] = pysqlite3.dbapi2
OLD, NEW = "sqlite3.test.{}", "test.test_sqlite3.test_{}"  # up to 3.10, and since


def load(name):
    if sys.version_info >= (3, 11):
        return importlib.import_module(NEW.format(name))
    for folder in sys.path:  # its package has made place for pysqlite3; the files are there
        for module in pkgutil.iter_modules([f"{folder}/sqlite3/test"]):
            if module.name == name:
                spec = module.module_finder.find_spec(name)
                found = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(found)
                return found
    raise ModuleNotFoundError(OLD.format(name))


def suite_of(module):
    """Up to 3.10 the methods are called check_... or Check..., and the module collects them itself."""
    return module.suite() if hasattr(module, "suite") else unittest.defaultTestLoader.loadTestsFromModule(module)


suite = unittest.TestSuite(suite_of(load(name)) for name in NAMES)
result = unittest.TextTestRunner(verbosity=2).run(suite)
