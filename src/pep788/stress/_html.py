"""The report as one self-contained HTML file: nothing is loaded from anywhere."""

from __future__ import annotations

import html
import shlex
from collections.abc import Iterable, Sequence

from . import _report, _verdict
from ._record import CRASHED, ENDED, KILLED, PARKED, STAGES, STARTED, Event, Record
from ._report import Report
from ._runner import Cell, Group
from ._verdict import VERDICTS

COLOURS = {"ok": "#2f9e60", "crash": "#d0342c", "hang": "#8e44ad", "lost": "#e08a1e", "status": "#6b7280"}
STAGE_COLOURS = ("#eef2f7", "#dbeafe", "#bfdbfe", "#93c5fd", "#fecaca", "#fca5a5", "#f87171", "#d6d3d1")
THREAD_WORDS = {ENDED: "ended by itself", KILLED: "ended by CPython", PARKED: "asleep for ever", CRASHED: "crashed"}
THREAD_COLOURS = {ENDED: COLOURS["ok"], KILLED: COLOURS["lost"], PARKED: "#b45309", CRASHED: COLOURS["crash"]}
DOT, GAP, PER_ROW = 10, 3, 60
LANES = 24
WIDTH, LABELS, ENDS, LANE = 920, 150, 120, 20

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff; max-width: 1000px; margin: 2em auto;
       padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; }
table { border-collapse: collapse; width: 100%; } th, td { padding: .4em .7em; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr { border-bottom: 1px solid #e4e7eb; }
.red { color: #b42318; font-weight: 600; } .green { color: #1e7a48; font-weight: 600; }
.group { border: 1px solid #e4e7eb; border-left: 5px solid var(--verdict); border-radius: 6px; padding: .2em 1.2em 1em;
         margin: 1.2em 0; overflow-x: auto; }
.group h3 { margin: .6em 0 .2em; } dl { display: grid; grid-template-columns: 5em 1fr; margin: .5em 0; }
dt { color: #52606d; } dd { margin: 0; }
pre { background: #f7f9fb; padding: .8em; overflow: auto; max-height: 28em; font-size: 12.5px; line-height: 1.35; }
summary { cursor: pointer; color: #334e68; }
.wide { overflow-x: auto; } .wide table { white-space: nowrap; }
svg { max-width: 100%; min-width: 640px; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: #1f2933; paint-order: stroke; stroke: #fffc; stroke-width: 3px; }
.legend span { display: inline-block; margin-right: 1.2em; } .legend i { display: inline-block; width: .8em;
         height: .8em;
         border-radius: 2px; margin-right: .4em; } footer { color: #52606d; margin-top: 2em; }
"""


def as_html(report: Report) -> str:
    """Verdicts of all runs as dots, and for each group why, what to do, a timeline of the sample, and its stacks."""
    failures, runs = sum(cell.failures for cell in report.cells), sum(len(cell.runs) for cell in report.cells)
    title = f"{failures} of {runs} runs failed" if failures else f"no failure seen in {runs} runs"
    body = [
        f"<h1>pep788 stress: {title}{' (interrupted)' if report.interrupted else ''}</h1>",
        *_table(report),
        *_comparison(report),
        "<h2>Runs</h2>",
        _legend((COLOURS[name], f"{name}: {text}") for name, text in VERDICTS.items()),
        *[_dots(cell) for cell in report.cells],
    ]
    groups = [(cell, group) for cell in report.cells for group in _report.ordered(cell)]
    if groups:
        body += ["<h2>What failed</h2>", *[_group(cell, group) for cell, group in groups]]
    amplified = f"seeds from {report.plan.seed}" if report.plan.amplify else "amplifier off"
    body.append(f"<footer>{amplified}; {report.seconds:.0f} s. True rates with 95 % confidence.</footer>")
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n<title>pep788 stress: {title}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n'
        + "\n".join(body)
        + "\n</html>\n"
    )


def _table(report: Report) -> Iterable[str]:
    yield '<div class="wide"><table><tr><th></th><th>runs</th>' + "".join(f"<th>{name}</th>" for name in VERDICTS)
    yield "<th>failed</th><th>true rate</th></tr>"
    for cell in report.cells:
        counts = "".join(f"<td>{cell.count(name) or '·'}</td>" for name in VERDICTS)
        colour = "red" if cell.failures else "green"
        yield (
            f'<tr><td title="{_text(shlex.join(cell.argv))}">{_text(cell.label)}</td><td>{len(cell.runs)}</td>{counts}'
            f'<td class="{colour}">{_report.rate(cell.failures, len(cell.runs))}</td>'
            f"<td>{_text(_report.bound(cell))}</td></tr>"
        )
    yield "</table></div>"


def _comparison(report: Report) -> Iterable[str]:
    if report.compare:
        for before, after in zip(report.cells[::2], report.cells[1::2]):
            yield f"<p><b>{_text(after.label)}</b>: {_text(_report.significance(before, after))}.</p>"


def _legend(items: Iterable[tuple[str, str]]) -> str:
    spans = "".join(f'<span><i style="background:{colour}"></i>{_text(text)}</span>' for colour, text in items)
    return f'<p class="legend">{spans}</p>'


def _dots(cell: Cell) -> str:
    """A dot a run, in the order of the seeds."""
    step = DOT + GAP
    rows = max(1, -(-len(cell.runs) // PER_ROW))
    dots = "".join(
        f'<rect x="{LABELS + at % PER_ROW * step}" y="{at // PER_ROW * step}" width="{DOT}" height="{DOT}" rx="2" '
        f'fill="{COLOURS[run.verdict]}"><title>seed {run.seed}: {run.verdict}, {run.seconds:.2f} s</title></rect>'
        for at, run in enumerate(sorted(cell.runs, key=lambda run: run.seed))
    )
    width, height = LABELS + PER_ROW * step, rows * step + 6
    label = _text(_report.shortened(cell.label, 22))
    return (
        f'<div class="wide"><svg viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="runs of {_text(cell.label)}"><text x="0" y="10">{label}</text>{dots}</svg></div>'
    )


def _group(cell: Cell, group: Group) -> str:
    failure, sample = group.failure, group.sample
    facts = [("stage", failure.stage), ("why", failure.why), ("do", failure.advice)]
    parts = [f"<dt>{name}</dt><dd>{_text(text)}</dd>" for name, text in facts]
    record = max(sample.records, key=lambda one: (one.crash_signal, one.lost, one.ending_ns), default=None)
    picture = timeline(record, sample.over_ns, bool(sample.hung)) if record is not None else ""
    details = [
        ("frames", "\n".join(failure.frames)),
        (_report.output_title(group), sample.stderr),
        ("stacks of all threads", sample.stacks),
    ]
    return (
        f'<div class="group" style="--verdict:{COLOURS[failure.verdict]}">'
        f"<h3>{_text(cell.label)}: {len(group.runs)} of {len(cell.runs)}: {_text(failure.title)}</h3>"
        f"<dl>{''.join(parts)}</dl>{picture}"
        + "".join(
            f"<details><summary>{name}</summary><pre>{_text(text.strip())}</pre></details>"
            for name, text in details
            if text.strip()
        )
        + f"<p>Sample: seed {sample.seed}.</p></div>"
    )


def timeline(record: Record, over_ns: int, hung: bool) -> str:
    """Stages of finalization as bands, and foreign threads as bars in them."""
    stages = _verdict.stages(record, over_ns)
    end = max(stages[-1][2], 1e-6)
    begin = max(0.0, _ending(stages) - 0.25 * (end - _ending(stages)))  # what came before finalization is cut off
    scale = (WIDTH - LABELS - ENDS) / (end - begin if end > begin else 1e-6)

    def x(seconds: float) -> float:
        return round(LABELS + (min(max(seconds, begin), end) - begin) * scale, 1)

    lanes = _lanes(record, hung)
    shown = lanes[:LANES]
    height = 30 + LANE * (len(shown) + 1)
    parts = []
    for number, start, stop in stages:
        parts.append(
            f'<rect x="{x(start)}" y="0" width="{max(0.5, x(stop) - x(start)):.1f}" height="{height - 22}" '
            f'fill="{STAGE_COLOURS[number]}"><title>{_text(STAGES[number])}: {start:.4f} to {stop:.4f} s</title></rect>'
        )
    parts.append(f'<text x="0" y="15">stage</text><text x="0" y="{height - 4}">seconds</text>')
    parts += [
        f'<text x="{x(at)}" y="{height - 4}" text-anchor="{anchor}">{at:.3f}</text>'
        for at, anchor in ((begin, "start"), (end, "end"))
    ]
    for lane, (thread, first, last, kind) in enumerate(shown, start=1):
        y = LANE * lane
        word = THREAD_WORDS.get(kind, "there at the end")
        colour = THREAD_COLOURS.get(kind, "#475569")
        begins, ends = x(first), x(last if kind in (ENDED, KILLED, CRASHED) else end)
        parts.append(f'<text x="0" y="{y + 13}">thread {thread}</text>')
        parts.append(
            f'<rect x="{begins}" y="{y + 5}" width="{max(2.0, ends - begins):.1f}" height="9" rx="3" fill="#475569"/>'
        )
        if kind:
            parts.append(f'<circle cx="{x(last)}" cy="{y + 9.5}" r="5" fill="{colour}"/>')
        parts.append(f'<text x="{ends + 9}" y="{y + 13}">{word}</text>')
    more = f"<p>{len(lanes) - LANES} more threads.</p>" if len(lanes) > LANES else ""
    used = [(STAGE_COLOURS[number], STAGES[number]) for number, _, _ in stages]
    return (
        f'<div class="wide"><svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" '
        f'aria-label="timeline of the sample">{"".join(parts)}</svg></div>{more}{_legend(used)}'
    )


def _ending(stages: Sequence[tuple[int, float, float]]) -> float:
    return stages[1][1] if len(stages) > 1 else 0.0


def _lanes(record: Record, hung: bool) -> list[tuple[int, float, float, int]]:
    """Thread, begin, last event and its kind (0: none), for threads that were there when finalization began."""
    began: dict[int, float] = {}
    last: dict[int, Event] = {}
    for event in record.events:
        if event.kind == STARTED:
            began[event.thread] = (event.ns - record.begin_ns) * 1e-9
        elif event.kind == CRASHED and hung:
            continue  # it was sent SIGABRT, for its stacks
        elif not (event.kind == ENDED and event.thread in last):  # pthread_exit by CPython also ends the thread
            last[event.thread] = event
    ending = record.ending_ns
    lanes = []
    for thread in sorted({*began, *last}):
        event_of = last.get(thread)
        if event_of is not None and event_of.kind == ENDED and ending and event_of.ns < ending:
            continue
        at = (event_of.ns - record.begin_ns) * 1e-9 if event_of else 0.0
        lanes.append((thread, began.get(thread, 0.0), at, event_of.kind if event_of else 0))
    return lanes


def _text(text: str) -> str:
    return html.escape(_report.printable(text))
