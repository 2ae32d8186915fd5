"""One run: collect, parse, apply the rules, drop what is suppressed."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from . import binary, ctree, cython_tree, expand, flow, names, project, registry, sources
from .ctree import CFile, Kind, Macro, TooDeep, walk
from .cython_tree import CythonFile
from .model import Finding, Related, Report, Severity, Skip, Span
from .project import Project
from .registry import Rule
from .sources import Found, Item

SUPPRESS = re.compile(r"pep788:\s*ignore(?P<file>-file)?(?![\w-])(?P<given>\s*\[(?P<rules>[^\]\n]*)\]?|\s+P\d+\b)?")
PURE_PYTHON_MODE = re.compile(rb"^\s*(?:import cython\b|cimport |from cython )", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Options:
    """What to check and which rules to apply; `select` and `ignore` are ids or beginnings of ids."""

    paths: Tuple[str, ...]
    select: Tuple[str, ...] = ("P",)
    ignore: Tuple[str, ...] = ()
    exclude: Tuple[str, ...] = ()
    notes: bool = False
    """Keep findings that are only notes; else they are counted."""
    every_file: bool = False
    """Parse files without an interesting word, too: for measurements."""


def chosen(options: Options) -> List[Rule]:
    return [
        rule
        for rule in registry.all_rules()
        if rule.id.startswith(options.select) and not (options.ignore and rule.id.startswith(options.ignore))
    ]


Collect = Callable[[], Iterable[Found]]
"""Gives what to check, the same each time: it is called again when macros were found."""


def check(options: Options, collect: Optional[Collect] = None) -> Report:
    """Run it, on `options.paths` or on what `collect` gives.

    Whatever the files hold, this raises nothing but SourceError, for arguments that name nothing.
    """
    report = Report()
    rules = chosen(options)
    whole = load(options, report, collect)
    found = [finding for rule in rules for finding in rule.run(whole)]
    report.findings = sorted(_without_replaced(found, rules), key=lambda finding: finding.order)
    if not options.notes:
        report.hidden_notes = sum(f.severity is Severity.NOTE for f in report.findings)
        report.findings = [f for f in report.findings if f.severity is not Severity.NOTE]
    _suppress(report, _texts(whole))
    report.skipped = sorted(set(report.skipped), key=lambda skip: (skip.path, skip.reason))
    return report


def load(options: Options, report: Report, collect: Optional[Collect] = None) -> Project:
    """Parse what is worth it. `migrate` starts here, too."""
    whole = Project()
    collect = collect or functools.partial(sources.collect, options.paths, options.exclude)
    items = _first_pass(options, collect, report, whole)
    macros = project.find_macros(_plain(items, report), {})
    while macros:  # files that say nothing of interest except the name of such a macro
        more = _users(collect, items, macros)
        items.update(more)
        new = project.find_macros(_plain(more, report), macros)
        if len(new) == len(macros):
            break
        macros = new
    whole.macros = macros
    whole.files = _parsed(items, macros, report)
    project.fill(whole)
    _structs_elsewhere(whole, collect)
    expand.follow(whole, _macros_elsewhere(whole, collect))
    report.skipped += _not_understood(whole)
    return whole


def _plain(items: Dict[str, Item], report: Report) -> List[CFile]:
    """Parsed without knowing any macro, for the definitions alone."""
    return _parsed({path: item for path, item in items.items() if b"#" in item.data}, (), report)


def _parsed(items: Dict[str, Item], macros: Iterable[str], report: Report) -> List[CFile]:
    files = []
    for item in items.values():
        try:
            files.append(project.parse_c(item, macros))
        except TooDeep as error:
            report.skipped.append(Skip(item.path, str(error), "unparsed"))
    return files


def _first_pass(options: Options, collect: Collect, report: Report, whole: Project) -> Dict[str, Item]:
    items: Dict[str, Item] = {}
    for found in collect():
        if isinstance(found, Skip):
            report.skipped.append(found)
            continue
        skip = sources.not_hand_written(found)
        if skip is not None:
            report.skipped.append(skip)
            continue
        report.files += 1
        if found.suffix in sources.BINARY_SUFFIXES:
            _binary(found, report, whole)
            continue
        whole.paths.add(found.path)
        report.lines += found.data.count(b"\n")
        if found.suffix in sources.CYTHON_SUFFIXES:
            _cython(found, report, whole)
        elif options.every_file or names.INTERESTING.search(project.code_of(found)):
            items[found.path] = found
    return items


def _structs_elsewhere(whole: Project, collect: Collect) -> None:
    """Read the structs that a state is kept in where another file, one of no other interest, defines them."""
    wanted: Set[str] = set()
    for function in whole.functions:
        for event in function.of(Kind.ENSURE):
            name = project.struct_of(function, event.key) if event.macro is None and event.key else ""
            if name and name not in function.file.structs:
                wanted.add(name)
    if not wanted:
        return
    names_of = b"|".join(re.escape(name).encode() for name in sorted(wanted))
    pattern = re.compile(rb"\b(?:struct|class)\s+(?:" + names_of + rb")\b[^;]*\{|\}\s*(?:" + names_of + rb")\s*;")
    for found in collect():
        if isinstance(found, Skip) or found.suffix not in sources.C_SUFFIXES or not pattern.search(found.data):
            continue
        try:
            structs = project.parse_c(found, whole.macros).structs
        except TooDeep:
            continue
        for name in wanted & structs.keys():
            whole.structs.setdefault(name, []).append(structs[name])


_DEFINED = re.compile(rb"^[ \t]*#[ \t]*define[ \t]+(\w+)", re.MULTILINE)


def _macros_elsewhere(whole: Project, collect: Collect) -> List[CFile]:
    """Files that define macros which are used in functions that cannot be followed, and are of no other interest."""
    words = {word for function in whole.lost() for word in re.findall(rb"[A-Za-z_]\w*", function.text)}
    have = {file.path for file in whole.files}
    files: List[CFile] = []
    for found in collect() if words else ():
        if isinstance(found, Skip) or found.path in have or found.suffix not in sources.C_SUFFIXES:
            continue
        if words.isdisjoint(_DEFINED.findall(found.data)) or sources.not_hand_written(found) is not None:
            continue
        try:
            files.append(project.parse_c(found, whole.macros))
        except TooDeep:
            continue
    return files


def _users(collect: Collect, have: Dict[str, Item], macros: Dict[str, Macro]) -> Dict[str, Item]:
    pattern = re.compile(rb"\b(?:" + b"|".join(re.escape(name).encode() for name in macros) + rb")\b")
    more: Dict[str, Item] = {}
    for found in collect():
        if isinstance(found, Skip) or found.path in have or sources.not_hand_written(found) is not None:
            continue
        if found.suffix in sources.C_SUFFIXES + sources.SWIG_SUFFIXES and pattern.search(found.data):
            more[found.path] = found
    return more


def _binary(item: Item, report: Report, whole: Project) -> None:
    try:
        whole.binaries.append(binary.read(item.path, item.data))
    except binary.CannotRead as error:
        report.skipped.append(Skip(item.path, str(error), "unreadable"))


def _cython(item: Item, report: Report, whole: Project) -> None:
    if not names.INTERESTING_CYTHON.search(item.data):
        return
    if item.suffix == ".py" and not PURE_PYTHON_MODE.search(item.data):
        return
    try:
        whole.cython.append(cython_tree.parse(item.path, item.data))
    except cython_tree.CannotParse as error:
        report.skipped.append(Skip(item.path, f"Cython's parser: {error}", "unparsed"))
    except UnicodeDecodeError:
        report.skipped.append(Skip(item.path, "not UTF-8", "unparsed"))
    except RecursionError:
        report.skipped.append(Skip(item.path, "nested too deeply for Cython's parser", "unparsed"))


def _not_understood(whole: Project) -> Iterator[Skip]:
    """Functions that open something on paths that cannot be followed: only their calls are reported."""
    lost: Dict[str, List[str]] = {}
    for function in whole.lost():
        if id(function) not in whole.twins:
            line = function.file.span(function.node).line
            lost.setdefault(function.file.path, []).append(f"{function.name or 'a function'} (line {line})")
    for cython in whole.cython:
        for name, line in _lost_in_cython(whole, cython):
            lost.setdefault(cython.path, []).append(f"{name} (line {line})")
    for path, functions in lost.items():
        more = f" and {len(functions) - 3} more" if len(functions) > 3 else ""
        yield Skip(path, f"the paths through {', '.join(functions[:3])}{more}; their calls are", "unparsed", part=True)
    for file in whole.files:
        outside = _outside_of_functions(file)
        if outside:
            reason = f"the code around line {outside}, which belongs to no function"
            yield Skip(file.path, reason, "unparsed", part=True)


def _lost_in_cython(whole: Project, file: CythonFile) -> Iterator[Tuple[str, int]]:
    opening = {call.function for call in file.calls if ctree.kind_of(call.name) in flow.OPENS}
    yield from (found for found in file.lost if found[0] in opening)
    for function in whole.with_cython.functions if opening else ():
        if function.file is file.paths and function.name in opening and not whole.with_cython.flows(function):
            yield function.name, function.file.span(function.node).line


def _outside_of_functions(file: CFile) -> int:
    """The line of a call that attaches where the parser saw no function around it, or 0."""
    if names.ENSURE.encode() not in file.code:
        return 0
    ranges = [(function.node.start_byte, function.node.end_byte) for function in file.functions]
    for node in walk(file.root):
        if node.type == "call_expression" and file.text(node.child_by_field_name("function")) == names.ENSURE:
            if not any(start <= node.start_byte < end for start, end in ranges):
                return file.span(node).line
    return 0


def _without_replaced(findings: Sequence[Finding], rules: Iterable[Rule]) -> List[Finding]:
    replaces = {rule.id: rule.replaces for rule in rules}
    taken = {(f.span.path, f.span.start, other) for f in findings for other in replaces[f.rule]}
    return [f for f in findings if (f.span.path, f.span.start, f.rule) not in taken]


# --- suppression ------------------------------------------------------------------------------------------------


def _texts(whole: Project) -> Dict[str, bytes]:
    texts = {file.path: file.data for file in whole.files}
    texts.update({file.path: file.data for file in whole.cython})
    return texts


def _suppress(report: Report, texts: Dict[str, bytes]) -> None:
    """Comments: `pep788: ignore[P101]` on the line or alone on the one before, `ignore-file[...]` anywhere."""
    kept = []
    comments = {path: list(suppressions(data)) for path, data in texts.items()}
    known = [rule.id for rule in registry.all_rules()]
    for path, found in comments.items():
        for comment in found:
            wrong = [name for name in comment.rules if not any(id.startswith(name) for id in known)]
            if wrong:
                span = Span(path, 0, 0, comment.line, 1, comment.line, 1)
                report.comments.append(Related(span, f"{comment.text}: {wrong[0]} is no rule"))
    for finding in report.findings:
        if any(c.covers(finding.span.line, (finding.rule,)) for c in comments.get(finding.span.path, ())):
            report.suppressed += 1
        else:
            kept.append(finding)
    report.findings = kept
    report.frames = {path: texts[path] for path in {f.span.path for f in kept} & set(texts)}


@dataclasses.dataclass(frozen=True)
class Suppression:
    """A comment, the lines it is for (None: all) and the rules, or the beginnings of their ids (none: all)."""

    line: int
    text: str
    lines: Optional[Tuple[int, ...]]
    rules: Tuple[str, ...]

    def covers(self, line: int, rules: Iterable[str]) -> bool:
        """Whether it is for one of these rules on that line."""
        here = self.lines is None or line in self.lines
        return here and (not self.rules or any(rule.startswith(self.rules) for rule in rules))


def suppressions(data: bytes) -> Iterator[Suppression]:
    if b"pep788" not in data:
        return
    if b"pep788:" not in data:  # nearly all files: they are not decoded for this
        return
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        found = SUPPRESS.search(line)
        if found is not None:
            given = found.group("given") or ""
            rules = tuple(filter(None, re.split(r"[,\s\[\]]+", given.upper())))
            alone = not line[: found.start()].strip(" \t/*#")
            lines = None if found.group("file") else (number, number + 1) if alone else (number,)
            yield Suppression(number, found.group().rstrip(), lines, rules)
