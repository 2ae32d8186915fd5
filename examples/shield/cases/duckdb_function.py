"""pybind11 (DuckDB): a Python function called by the database's threads in a query of a daemon thread."""

import threading

import duckdb

busy = threading.Semaphore(0)


def plus_one(number: int) -> int:
    busy.release()
    return number + 1


def query():
    connection = duckdb.connect(config={"threads": 4})
    connection.create_function("plus_one", plus_one)
    while True:
        connection.execute("SELECT sum(plus_one(i)) FROM range(100000) t(i)").fetchall()


threading.Thread(target=query, daemon=True).start()
for _ in range(200):
    busy.acquire()
