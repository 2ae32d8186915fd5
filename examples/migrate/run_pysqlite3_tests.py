"""Run CPython's own tests of sqlite3 with pysqlite3 in its place."""

import importlib
import sys
import unittest

import pysqlite3

NAMES = ("userfunctions", "hooks", "regression", "factory", "types", "transactions")

sys.modules["sqlite3"] = pysqlite3
sys.modules["sqlite3.dbapi2"] = pysqlite3.dbapi2
OLD, NEW = "sqlite3.test.{}", "test.test_sqlite3.test_{}"  # up to 3.10, and since


def load(name):
    if sys.version_info >= (3, 11):
        return importlib.import_module(NEW.format(name))
    import pkgutil  # the package in whose place pysqlite3 is; its tests are files beside it

    for folder in sys.path:
        for module in pkgutil.iter_modules([f"{folder}/sqlite3/test"]):
            if module.name == name:
                spec = module.module_finder.find_spec(name)
                found = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(found)
                return found
    raise ModuleNotFoundError(OLD.format(name))


suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromModule(load(name)) for name in NAMES)
result = unittest.TextTestRunner(verbosity=2).run(suite)
