"""The results as text: Markdown, and a table for the terminal where `rich` is installed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rows import CONTENDERS, LIBRARIES, ROWS, SCALE, Cell, Spread, judge

Results = Mapping[str, Any]
BUSY = 5.0  # percent of the machine that others used


def number(value: float) -> str:
    """Three digits that count, and one more close above 1, where most promises are."""
    if value == 0:
        return "0"
    digits = 3 if 1 <= value < 2 else 2 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def spread(value: Spread) -> str:
    return f"{number(value.median)} ({number(value.low)}-{number(value.high)})"


def ratio_cells(results: Results) -> Iterator[tuple[str, str, list[Cell]]]:
    """Title, target and one cell for each column, of each row that was measured at all."""
    columns = results["columns"]
    for row in ROWS:
        cells = [judge(row, name, columns[name]) for name in columns]
        if any(cell.spread for cell in cells) or row.group in results["groups"]:
            wanted = list(dict.fromkeys(str(row.targets[name]) for name in columns if name in row.targets))
            yield row.title, ", ".join(wanted) or "-", cells


def absolute_rows(results: Results) -> Iterator[tuple[str, str, list[str]]]:
    columns = results["columns"]
    for group, contender, words, unit in CONTENDERS:
        found = [column.get("samples", {}).get(group, {}).get(contender) for column in columns.values()]
        if any(found):
            scale = SCALE.get(unit, 1)
            yield words, unit, [spread(Spread.of([v * scale for v in values])) if values else "-" for values in found]


def verdicts(results: Results) -> tuple[int, int]:
    """How many targets were met, and how many not."""
    said = [cell.verdict for _, _, cells in ratio_cells(results) for cell in cells]
    return said.count("met"), said.count("NOT MET")


def remarks(results: Results) -> list[str]:
    """What a reader has to know before quoting a number."""
    said = []
    if results.get("interrupted"):
        said.append("It was interrupted: what is here is what had been measured by then.")
    if results.get("quick"):
        said.append("`--quick`: few and short rounds, to see that the benchmark works. Not to be quoted.")
    busy = busy_columns(results)
    if busy:
        most = max(busy.values())
        said.append(
            f"Others used the machine: up to {most:.0f} % of its processors just before a measurement began "
            f"({', '.join(busy)}). Ratios stand that better than absolute values do; measure again when it is idle."
        )
    if results.get("include"):
        said.append("Measured with another copy of pep788.h than this checkout's (`--include`).")
    return said


def busy_columns(results: Results) -> dict[str, float]:
    return {name: column["busy"] for name, column in results["columns"].items() if column.get("busy", 0) > BUSY}


def reasons(results: Results) -> list[str]:
    """Why cells are empty; each reason once, with the columns that have it."""
    where: dict[str, list[str]] = {}
    for name, column in results["columns"].items():
        for group, why in column.get("failed", {}).items():
            where.setdefault(f"{group or 'everything'}: {why}", []).append(name)
        for contenders in column.get("missing", {}).values():
            for contender, why in contenders.items():
                where.setdefault(f"{contender}: {why}", []).append(name)
    for title, _, cells in ratio_cells(results):
        for name, cell in zip(results["columns"], cells):
            if cell.spread is None:
                where.setdefault(f"{title}: {cell.note}", []).append(name)
    return [f"{why} [{', '.join(names)}]" for why, names in where.items()]


def machine_lines(results: Results) -> list[str]:
    machine = results["machine"]
    order = ("cpu_model_name", "cpu_count", "cpu_freq", "cpu_config", "platform", "aslr", "load_avg_1min")
    lines = [f"{key}: {machine[key]}" for key in order if key in machine]
    lines.append(f"date: {results['date']}, commit: {results['commit']}, repeats: {results['repeats']}")
    for name, column in results["columns"].items():
        about = column.get("about")
        if about:
            versions = about["libraries"]
            libraries = ", ".join(f"{key} {versions[key]}" for key in LIBRARIES if versions.get(key))
            lines.append(f"{name}: Python {about['python']}, {about['compilers'][0]}; {libraries}")
    return lines


def markdown(results: Results, plots: Sequence[str] = ()) -> str:
    columns = list(results["columns"])
    met, unmet = verdicts(results)
    lines = ["# What pep788 costs, and the alternatives", ""]
    lines += [f"> {remark}" for remark in remarks(results)] + [""]
    lines += [
        f"{met} targets met, {unmet} NOT MET. Median of the ratios of all rounds (quartiles); what a row means is in "
        "bench/README.md.",
        "",
        "## Ratios",
        "",
    ]
    lines += head(["ours / the other", "target", *columns])
    for title, target, cells in ratio_cells(results):
        lines.append(line([title, target, *(markdown_cell(cell) for cell in cells)]))
    lines += ["", "## Absolute", "", "Median (quartiles).", "", *head(["what", "unit", *columns])]
    for words, unit, texts in absolute_rows(results):
        lines.append(line([words, unit, *texts]))
    lines += ["", "## Where there is nothing", "", *(f"- {why}" for why in reasons(results) or ["nothing is missing"])]
    if plots:
        lines += ["", "## Plots", "", *(f"![{name}]({name})" for name in plots)]
    lines += ["", "## Machine", "", *(f"- {text}" for text in machine_lines(results))]
    header = next((c["about"]["header"] for c in results["columns"].values() if c.get("about")), None)
    if header:
        lines.append(f"- pep788.h {header['version']}: {header['bytes']:,} bytes, sha256 {header['sha256'][:16]}")
    return "\n".join([*lines, ""])


def markdown_cell(cell: Cell) -> str:
    if cell.spread is None:
        return "-"
    verdict = {"met": f" met ({cell.target})", "NOT MET": f" **NOT MET** ({cell.target})", "": ""}[cell.verdict]
    return f"{spread(cell.spread)}{verdict}" + (f" [{cell.note}]" if cell.note else "")


def head(cells: Sequence[str]) -> list[str]:
    return [line(cells), line(["---", *["---:"] * (len(cells) - 1)])]


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def terminal(results: Results) -> None:
    """Print; the Markdown as it is where there is no `rich`."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        print(markdown(results))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=40 + 22 * len(results["columns"]))
    columns = list(results["columns"])
    table = Table(title="Ratios: median (quartiles)", title_justify="left", show_lines=True)
    for title in ("ours / the other", "target", *columns):
        table.add_column(title, justify="left" if title == "ours / the other" else "right")
    styles = {"met": "green", "NOT MET": "bold red", "": ""}
    for title, target, cells in ratio_cells(results):
        texts = []
        for cell in cells:
            text = Text(spread(cell.spread).replace(" ", "\n") if cell.spread else "-")
            if cell.verdict:
                text.append(f"\n{cell.verdict}", styles[cell.verdict])
                text.append(f" {cell.target}", "dim")
            if cell.spread and cell.note:
                text.append(f"\n{cell.note}", "dim")
            texts.append(text)
        table.add_row(title, target, *texts)
    console.print(table)
    table = Table(title="Absolute: median (quartiles)", title_justify="left")
    for title in ("what", "unit", *columns):
        table.add_column(title, justify="left" if title == "what" else "right")
    for words, unit, values in absolute_rows(results):
        table.add_row(words, unit, *(value.replace(" ", "\n") for value in values))
    console.print(table)
    for said in [*machine_lines(results), *reasons(results), *remarks(results)]:
        console.print(said, markup=False, highlight=False)
    met, unmet = verdicts(results)
    console.print(f"{met} targets met, {unmet} NOT MET", highlight=False)
