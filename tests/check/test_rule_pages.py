"""Each rule has a page, and the code on it is found or not found as the page says, and compiles."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import support

PAGES = support.REPO / "docs" / "rules"
SUFFIXES = {"c": "x.c", "cpp": "x.cpp", "cython": "x.pyx"}
CODE = re.compile(r"^## (Found|Fixed)\n\n```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
IDS = sorted(path.stem for path in PAGES.glob("P*.md"))
EXAMPLES = [
    pytest.param(path.stem, kind, language, code, id=f"{path.stem}-{kind}")
    for path in sorted(PAGES.glob("P*.md"))
    for kind, language, code in CODE.findall(path.read_text(encoding="utf-8"))
]
PRELUDE = """
#include "%s"
#include <pthread.h>
extern PyInterpreterView *view;
"""
CPP = "static pep788::view interpreter;\n"
CPP += "namespace py { struct gil_scoped_acquire { gil_scoped_acquire(); ~gil_scoped_acquire(); }; }\n"


def test_every_rule_has_a_page_and_every_page_a_rule(checker):
    from pep788_check import registry

    rules = {rule.id: rule.name for rule in registry.all_rules()}
    assert IDS == sorted(rules)
    for id, name in rules.items():
        text = (PAGES / f"{id}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {id}: {name}\n")
        assert ("\n## Found\n" in text and "\n## Fixed\n" in text) == (id < "P3")
        assert "\n## Can it be rewritten safely?\n" in text


@pytest.mark.parametrize("rule, kind, language, code", EXAMPLES)
def test_example_is_found_or_not(checker, rule, kind, language, code):
    report = checker.report({SUFFIXES[language]: code})
    assert report.skipped == []
    rules = {finding.rule for finding in report.findings}
    assert rule in rules if kind == "Found" else not rules


@pytest.mark.parametrize("rule, kind, language, code", [e for e in EXAMPLES if e.values[2] != "cython"])
def test_example_compiles(tmp_path, rule, kind, language, code):
    if rule == "P204" and sys.version_info < (3, 12):
        pytest.skip("Py_mod_multiple_interpreters is new in 3.12")
    header, std = ("pep788.h", "c11") if language == "c" else ("pep788.hpp", "c++17")
    source = tmp_path / SUFFIXES[language]
    extra = CPP if language == "cpp" else ""
    source.write_text(PRELUDE % header + extra + code)
    command = support.compile_command("c++" if language == "cpp" else "c", std)
    command += ["-Wno-unused-variable", "-Wno-unused-result", "-fvisibility=hidden", "-fsyntax-only", str(source)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_page_is_wrapped_and_its_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    assert all(len(line) <= 120 or line.startswith("|") for line in text.splitlines())
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (PAGES / target).exists(), target
