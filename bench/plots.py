"""The pictures: PNG and SVG, with colours that also the colour-blind tell apart (Okabe and Ito's)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import matplotlib
import tables
from rows import Spread, is_native

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402
from matplotlib.ticker import FuncFormatter, NullFormatter  # noqa: E402

GREEN, BLUE, ORANGE, PURPLE, SKY, RED, YELLOW, BLACK = (
    "#009E73 #0072B2 #E69F00 #CC79A7 #56B4E9 #D55E00 #F0E442 #000000".split()
)
Series = tuple[str, str, Sequence[Optional[Spread]]]
plt.rcParams.update(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "svg.fonttype": "none",
        "svg.hashsalt": "pep788",
        "figure.dpi": 100,
    }
)


def draw(results: Mapping[str, Any], folder: Path) -> list[str]:
    """Write what there are samples for; returns the names of the PNG files."""
    names = []
    for name, make in (("attach", attach), ("callbacks", callbacks), ("guard", guard)):
        figure = make(results)
        if figure is None:
            continue
        for kind in ("png", "svg"):
            undated = {"Date": None} if kind == "svg" else None
            figure.savefig(folder / f"{name}.{kind}", dpi=160, bbox_inches="tight", metadata=undated)
        plt.close(figure)
        names.append(f"{name}.png")
    return names


def find(column: Mapping[str, Any], group: str, contender: str) -> Optional[Spread]:
    values = column.get("samples", {}).get(group, {}).get(contender)
    return Spread.of(values) if values else None


def measured(results: Mapping[str, Any], group: str) -> dict[str, Mapping[str, Any]]:
    return {name: column for name, column in results["columns"].items() if column.get("samples", {}).get(group)}


def foot(figure: Any, results: Mapping[str, Any]) -> None:
    machine = results["machine"]
    name = machine.get("cpu_model_name") or machine.get("platform", "?")
    text = f"{name}, {machine.get('cpu_count', '?')} processors; {results['date'][:10]}"
    text += f"; medians of {results['repeats']} rounds, lines: quartiles"
    text += "; --quick, not to be quoted" if results.get("quick") else ""
    text += "; others used the machine meanwhile" if tables.busy_columns(results) else ""
    figure.text(0.01, -0.02, text, fontsize=8, color="#555555", ha="left", va="top")


def bars(axes: Any, columns: Sequence[str], series: Sequence[Series]) -> None:
    """Groups of bars, only as many in a group as there is something to show."""
    top = max(s.median for _, _, spreads in series for s in spreads if s)
    ticks = []
    at = 0.0
    for index, _ in enumerate(columns):
        here = [(label, colour, spreads[index]) for label, colour, spreads in series]
        shown = [(label, colour, value) for label, colour, value in here if value is not None]
        ticks.append(at + (len(shown) - 1) / 2)
        for _, colour, value in shown:
            axes.bar(at, value.median, 0.92, color=colour, linewidth=0)
            axes.plot([at, at], [value.low, min(value.high, top * 1.25)], color="#333333", linewidth=1)
            axes.annotate(
                f"{value.median:,.0f}" if value.median >= 10 else f"{value.median:.1f}",
                (at, max(value.median, min(value.high, top * 1.25))),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7,
            )
            at += 1
        at += 1
    axes.set_xticks(ticks, columns)
    axes.tick_params(axis="x", length=0)
    axes.set_xlabel("interpreter")
    axes.set_ylim(0, top * 1.3)
    axes.yaxis.grid(True, color="#dddddd", linewidth=0.7)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    handles = [Rectangle((0, 0), 1, 1, color=colour) for _, colour, spreads in series if any(spreads)]
    labels = [label for label, _, spreads in series if any(spreads)]
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0}
    axes.legend(handles, labels, frameon=False, ncols=4, columnspacing=1.2, handlelength=1.4, **above)


def attach(results: Mapping[str, Any]) -> Any:
    columns = measured(results, "attach")
    if not columns:
        return None
    views = {name: find(column, "attach", "view") for name, column in columns.items()}
    native = [views[n] if is_native(c) else find(c, "attach", "native") for n, c in columns.items()]
    kept = [find(c, "attach", "kept") for c in columns.values()]
    series: list[Series] = [
        ("EnsureKept (ours)", GREEN, kept),
        ("EnsureFromView (ours)", BLUE, [None if is_native(c) else views[n] for n, c in columns.items()]),
        ("PyGILState_Ensure", ORANGE, [find(c, "attach", "gilstate") for c in columns.values()]),
        ("native EnsureFromView", PURPLE, native),
    ]
    figure, axes = plt.subplots(figsize=(11.5, 4.6))
    bars(axes, list(columns), series)
    axes.set_ylabel("ns per attach + detach")
    axes.set_title("Native thread attaches and detaches: lower is better", loc="left", pad=26, fontsize=12)
    foot(figure, results)
    return figure


def guard(results: Mapping[str, Any]) -> Any:
    columns = measured(results, "guard")
    if not columns:
        return None

    def ours(threads: int) -> list[Optional[Spread]]:
        return [None if is_native(c) else find(c, "guard", f"guard {threads}") for c in columns.values()]

    def native(threads: int) -> list[Optional[Spread]]:
        name = {True: f"guard {threads}", False: f"native {threads}"}
        return [find(c, "guard", name[is_native(c)]) for c in columns.values()]

    series: list[Series] = [
        ("ours, 1 thread", GREEN, ours(1)),
        ("ours, 2 threads", BLUE, ours(2)),
        ("native, 1 thread", PURPLE, native(1)),
        ("native, 2 threads", RED, native(2)),
    ]
    if not any(any(spreads) for _, _, spreads in series):
        return None
    figure, axes = plt.subplots(figsize=(11.5, 4.6))
    bars(axes, list(columns), series)
    axes.set_ylabel("ns per pair, as each thread sees it")
    axes.set_title("A guard taken from a view and closed: lower is better", loc="left", pad=26, fontsize=12)
    foot(figure, results)
    return figure


def callbacks(results: Mapping[str, Any]) -> Any:
    """Dots: the values differ by factors of 100, and bars on a logarithmic scale have no foot to stand on."""
    columns = measured(results, "callbacks")
    if not columns:
        return None
    kinds = (
        ("kept", "EnsureKept (ours)", GREEN, "o"),
        ("view", "EnsureFromView (ours)", BLUE, "s"),
        ("native", "native EnsureFromView", PURPLE, "P"),
        ("gilstate", "PyGILState_Ensure", ORANGE, "v"),
        ("pybind11", "pybind11", SKY, "^"),
        ("nanobind", "nanobind", RED, "D"),
        ("cffi", "cffi", BLACK, "X"),
        ("ctypes", "ctypes", "#999999", "p"),
    )
    threads = [n for n in (1, 2) if any(find(c, "callbacks", f"gilstate {n}") for c in columns.values())]
    if not threads:
        return None
    figure, panels = plt.subplots(len(threads), 1, figsize=(10, 3.7 * len(threads)), squeeze=False)
    for axes, count in zip(panels[:, 0], threads):
        for place, (key, label, colour, marker) in enumerate(kinds):
            offset = (place - (len(kinds) - 1) / 2) * 0.1
            first = True
            for index, column in enumerate(columns.values()):
                value = seen(column, key, count)
                if value is None:
                    continue
                x = index + offset
                axes.plot([x, x], [value.low, value.high], color=colour, linewidth=1.2)
                once = label if first else None
                axes.plot([x], [value.median], marker, color=colour, markersize=6.5, label=once, linewidth=0)
                first = False
        axes.set_yscale("log")
        axes.set_xticks(range(len(columns)), list(columns))
        axes.set_xlim(-0.6, len(columns) - 0.4)
        axes.tick_params(axis="x", length=0)
        axes.yaxis.grid(True, which="major", color="#cccccc", linewidth=0.7)
        axes.yaxis.set_major_formatter(FuncFormatter(short))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("callbacks per second\n(logarithmic)")
        axes.text(0.0, 1.02, f"{count} thread{'s' if count > 1 else ''}", transform=axes.transAxes, fontweight="bold")
        for border in range(1, len(columns)):
            axes.axvline(border - 0.5, color="#eeeeee", linewidth=0.8, zorder=0)
    panels[-1, 0].set_xlabel("interpreter")
    handles: dict[str, Any] = {}
    for axes in panels[:, 0]:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    order = [label for _, label, _, _ in kinds if label in handles]
    shown = [handles[label] for label in order]
    figure.legend(shown, order, frameon=False, loc="upper left", ncols=4, bbox_to_anchor=(0.05, 0.965))
    title = "A trivial Python function called from native threads: higher is better"
    figure.suptitle(title, x=0.06, ha="left", fontsize=12)
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    foot(figure, results)
    return figure


def seen(column: Mapping[str, Any], key: str, threads: int) -> Optional[Spread]:
    """Under its own name: where the header stepped aside, what is called ours is native."""
    if is_native(column):
        if key == "view":
            return None
        key = "view" if key == "native" else key
    return find(column, "callbacks", f"{key} {threads}")


def short(value: float, _: object) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g}"
