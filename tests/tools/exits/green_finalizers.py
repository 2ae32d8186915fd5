"""Destructors, weak references and temporary files that end with the interpreter."""

import tempfile
import weakref


class Node:
    def __init__(self, other=None):
        self.other, self.me = other, self

    def __del__(self):
        self.other = None


folder = tempfile.TemporaryDirectory()
file = tempfile.TemporaryFile(dir=folder.name)
nodes = [Node() for _ in range(1000)]
for left, right in zip(nodes, nodes[1:]):
    left.other = right
weakref.finalize(nodes[0], print, "finalized")
