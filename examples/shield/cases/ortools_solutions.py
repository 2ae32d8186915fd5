"""pybind11 (OR-Tools): a solver's callbacks on its worker threads, in a solve of a daemon thread."""

import threading

from ortools.sat.python import cp_model

busy = threading.Semaphore(0)


class Seen(cp_model.CpSolverSolutionCallback):
    def on_solution_callback(self):
        busy.release()


def solve():
    while True:
        model = cp_model.CpModel()
        numbers = [model.new_int_var(0, 20, f"n{i}") for i in range(8)]
        model.add(sum(numbers) <= 100)
        model.maximize(sum(i * n for i, n in enumerate(numbers)))
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 4
        solver.log_callback = lambda line: busy.release()
        solver.parameters.log_search_progress = True
        solver.parameters.log_to_stdout = False
        solver.solve(model, Seen())


for _ in range(2):
    threading.Thread(target=solve, daemon=True).start()
for _ in range(100):
    busy.acquire()
