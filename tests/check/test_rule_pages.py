"""Each rule has a page, and the code on it is found or not found as the page says.

That it fails or does not is for test_rule_examples_fail.py, which compiles it.
"""

from __future__ import annotations

import re

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


def test_every_rule_has_a_page_and_every_page_a_rule(checker):
    from pep788_check import registry

    rules = {rule.id: rule.name for rule in registry.all_rules()}
    assert IDS == sorted(rules)
    for id, name in rules.items():
        text = (PAGES / f"{id}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {id}: {name}\n")
        headings = re.findall(r"^## (.*)$", text, re.MULTILINE)[:-1]
        assert headings == (["Found", "How it fails", "Fixed"] if id < "P3" else [])
        assert "\n## Can it be rewritten safely?\n" in text


@pytest.mark.parametrize("rule, kind, language, code", EXAMPLES)
def test_example_is_found_or_not(checker, rule, kind, language, code):
    report = checker.report({SUFFIXES[language]: code})
    assert report.skipped == []
    rules = {finding.rule for finding in report.findings}
    assert rule in rules if kind == "Found" else not rules


@pytest.mark.parametrize("path", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_page_is_wrapped_and_its_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    assert all(len(line) <= 120 or line.startswith("|") for line in text.splitlines())
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (PAGES / target).exists(), target
