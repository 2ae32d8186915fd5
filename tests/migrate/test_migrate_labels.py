"""The labels of the eight packages, and that `make corpus` finds each difference from them."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys

import pytest
import support

FOLDER = support.REPO / "examples" / "migrate"
LABELS = json.loads((FOLDER / "sites.json").read_text())
OUTCOMES = ("migrated", "skipped", "needs a decision")


@pytest.fixture(scope="module")
def packages():
    spec = importlib.util.spec_from_file_location("pep788_packages", FOLDER / "packages.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    sys.modules[spec.name] = module  # dataclasses look there
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
        del sys.modules[spec.name]
    return module


def test_all_packages_are_labelled(packages):
    assert {f"{package.name.replace('-', '_')}-{package.version}" for package in packages.PACKAGES} == set(LABELS)


@pytest.mark.parametrize("package", LABELS)
def test_labels_are_whole(package):
    labels = LABELS[package]
    sites = labels["sites"]
    assert len({(site["path"], site["line"]) for site in sites}) == len(sites) > 0
    for site in sites:
        assert site["first"] in OUTCOMES and site["outcome"] in OUTCOMES and site["why"]
        assert ("view" in site) == (site["outcome"] == "migrated") and site.get("view") in {None, *labels["views"]}


def reports():
    """What the tool would have to say of the labels below: without decisions, and with them."""
    labels = {
        "views": {"x_main_view": "x.c"},
        "sites": [
            {"path": "x.c", "line": 5, "function": "f", "first": "needs a decision", "outcome": "migrated", "view": "x_main_view", "why": "-1"},
            {"path": "x.c", "line": 9, "function": "g", "first": "needs a decision", "outcome": "skipped", "why": "cannot fail"},
        ],
    }  # fmt: skip
    sites = [{"view": "", "reason": "", **site} for site in labels["sites"]]
    first = {"sites": [{**site, "outcome": site["first"]} for site in sites]}
    return labels, first, {"sites": sites, "views": [{"expression": "x_main_view", "path": "x.c"}]}


def test_no_difference(packages):
    assert list(packages.compare(*reports())) == []


@pytest.mark.parametrize(
    "change, said",
    [
        pytest.param(lambda first, report: report["sites"][0].update(outcome="skipped", reason="no"), "x.c:5: outcome is 'skipped', labelled 'migrated': no", id="an outcome"),
        pytest.param(lambda first, report: report["sites"][0].update(view="y"), "x.c:5: view is 'y', labelled 'x_main_view': ", id="a view"),
        pytest.param(lambda first, report: report["sites"][0].update(function="h"), "x.c:5: function is 'h', labelled 'f': ", id="a function"),
        pytest.param(lambda first, report: first["sites"][1].update(outcome="migrated"), "x.c:9: first is 'migrated', labelled 'needs a decision': ", id="not asked"),
        pytest.param(lambda first, report: report["sites"].pop(), "x.c:9: not reported", id="a site too few"),
        pytest.param(lambda first, report: report["sites"].append({**report["sites"][0], "line": 7}), "x.c:7: not labelled", id="a site too many"),
        pytest.param(lambda first, report: first["sites"].append({**first["sites"][0], "line": 7}), "x.c:7: not labelled", id="a question too many"),
        pytest.param(lambda first, report: report["views"].clear(), "the views are {}, labelled {'x_main_view': 'x.c'}", id="no view"),
    ],
)  # fmt: skip
def test_each_difference_is_found(packages, change, said):
    labels, first, report = reports()
    change(first, report := copy.deepcopy(report))
    assert list(packages.compare(labels, first, report)) == [said]


def test_hours_are_an_estimate_by_places_and_decisions(packages):
    assert packages.Migration("x", places=11, decisions=5).hours(10) == 1
    assert packages.Migration("x", places=1, decisions=2).hours(10) == 0
