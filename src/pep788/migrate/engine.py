"""One run: load, judge each site, work out the views, edit, and check the result before anybody sees it."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
from typing import Dict, Iterable, Iterator, List, Optional, Set, Tuple

from .. import vendor
from ..check import ctree, cython_tree, names, registry, sources
from ..check import engine as check_engine
from ..check import project as check_project
from ..check.ctree import CFile, Event, Function, Kind, TooDeep, walk
from ..check.cython_tree import CythonFile
from ..check.expand import CannotExpand, Expander
from ..check.model import Edit
from ..check.model import Report as CheckReport
from ..check.preprocessor import OLDEST
from ..check.project import Project, embeds
from ..check.sources import Item
from . import cython_split, edits, entry, macro_body, macro_pair, pair, raii, scoped
from .decisions import Decisions
from .holder import Holder, Holders
from .life import NoHolder, Store
from .ignored import Ignored
from .model import NotMigrated, Outcome, Refused, Report, Site, View, Worse, shown_name

ELSEWHERE = {  # rules of the check whose sites are not pairs of PyGILState calls
    "P108": "a thread state made by hand: use PyThreadState_Ensure(guard) where it stays on one thread",
}
WORSE = ("P102", "P201", "P202", "P203")
"""What must not be found in a migrated function."""
BUILD_FILES = ("setup.py", "setup.cfg", "pyproject.toml", "meson.build", "CMakeLists.txt")
_LIMITED_API = re.compile(rb"Py_LIMITED_API\W{1,6}(0[xX][0-9a-fA-F]{1,8})\b")
STORED = "the view is read before the thread is attached: no {name} may be freed while this may still be called"
_DEFINES_A_WAY_OUT = re.compile(rb"#[ \t]*define\b(?:[^\n]*\\\r?\n)*?[^\n]*\b(?:goto|return|break|continue|throw)\b")
IGNORED = "by a comment: pep788: ignore"
NOT_SEEN = "no call that was understood: not parsed, not compiled on CPython 3.9 and later, or the function's address"
UNUSED_MACRO = "a macro with PyGILState_Ensure that is used in no function here: its users have to change with it"
ENSURE_NAME = re.compile(r"\bPyGILState_Ensure\b")
_ENSURE_OR_LITERAL = re.compile(
    rb"R\"(?P<raw>[^()\\\s]{0,16})\(.*?\)(?P=raw)\"|//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'"
    rb"|(?P<name>\bPyGILState_Ensure\b)",
    re.DOTALL
)
SUBINTERPRETERS = (
    "{variable} is a view of the main interpreter: callbacks that belong to a subinterpreter would run in the main "
    "one, as with PyGILState_Ensure"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """`vendored` is the folder pep788.h is copied to; `oldest` the oldest Python that is supported."""

    paths: Tuple[str, ...]
    exclude: Tuple[str, ...] = ()
    vendored: Optional[str] = None
    oldest: Tuple[int, int] = (3, 9)

    @property
    def native(self) -> bool:
        return self.oldest >= entry.NATIVE


def migrate(options: Options, decisions: Decisions) -> Report:
    """Nothing is written: `after` of the report is what the files would hold."""
    return Run(options, decisions).run()


@dataclasses.dataclass
class Found:
    """Where the view of one site comes from, beside the expression."""

    static: bool = False
    """The module's own."""
    store: Optional[Store] = None
    notes: List[str] = dataclasses.field(default_factory=list)


class Run:
    """What one run knows."""

    def __init__(self, options: Options, decisions: Decisions) -> None:
        self.options = options
        self.decisions = decisions
        self.report = Report()
        self.checked = CheckReport()
        copied = {name for names in vendor.CHOICES.values() for name in names}
        self.exclude = (*options.exclude, vendor.HEADER_NAME, *sorted(copied))
        check_options = check_engine.Options(paths=options.paths, exclude=self.exclude)
        # Read once: files may change meanwhile.
        given = [found for found in sources.collect(options.paths, self.exclude) if not _is_binary(found)]
        self.whole: Project = check_engine.load(check_options, self.checked, lambda: given)
        self.items: Dict[str, Item] = {}
        self.others: List[Item] = []
        """Sources that are not C or C++, or not written by hand."""
        self._sort(given)
        self.files: Dict[str, CFile] = {file.path: file for file in self.whole.files}
        self.ignored = Ignored({**{p: item.data for p, item in self.items.items()}, **_cython_texts(self.whole)})
        self.modules: Dict[str, entry.Module] = {}
        """By the path of a file with sites."""
        self.asked: Dict[str, NotMigrated] = {}
        self.holders = Holders(self.whole, self.items, self.others)

    def _sort(self, given: List[sources.Found]) -> None:
        for found in given:
            if isinstance(found, Item):
                is_c = found.suffix in sources.C_SUFFIXES + sources.SWIG_SUFFIXES
                if is_c and sources.not_hand_written(found) is None:
                    self.items[found.path] = found
                else:
                    self.others.append(found)

    def run(self) -> Report:
        self.report.skipped = [skip for skip in dict.fromkeys(self.checked.skipped) if skip.kind != "vendored"]
        self._find_modules()
        self.report.sites += self._pairs()
        self.report.sites += self._scoped()
        self.report.sites += (self._unless_ignored(site) for site in self._others())
        self.report.sites.sort(key=lambda site: (site.span.path, site.span.start))
        self._edit()
        self.report.bindings = self.bindings
        self.report.notes += self._stale()
        if self.report.after and not self.options.native:
            self.report.notes += self._old_limited_api()
        self.report.notes += [f"the decision for {name} fits no site" for name in self.decisions.unused]
        return self.report

    # --- sites

    def _pairs(self) -> List[Site]:
        found = [(f, ensure, self._site(f, ensure)) for f in self.whole.functions for ensure in f.of(Kind.ENSURE)]
        sites = [site for _, _, site in found]
        through: Dict[str, List[Site]] = {}
        for _, ensure, site in found:
            macro = ensure.macro if ensure.macro is not None and not ensure.macro.stands_for else None
            for name in macro_body.lockers(self.whole, macro.name) if macro is not None else ():
                through.setdefault(name, []).append(site)
        for function, ensure, site in found:
            if function.is_constructor and ensure.macro is None and site.outcome is Outcome.SKIPPED:
                sites += self._change_class(function, ensure, site)
        for name, opened in sorted(through.items()):
            if any(site.outcome is Outcome.SKIPPED for site in opened):
                sites = self._rewrite_macro(name, opened, sites)
        return sites

    def _change_class(self, constructor: Function, ensure: Event, site: Site) -> List[Site]:
        """Of a class with Ensure and Release: `site` becomes what comes of it; returns the sites of its users."""
        if self.whole.pairs(constructor, ensure) or not ensure.key:
            return []
        change = raii.Raii(self.whole, self.items, self.others, self.decisions, self.ignored.covers)
        try:
            own, *users = change.sites(constructor, ensure, self._static_view)
        except NotMigrated as error:
            site.reason = error.reason
            return []
        for field in dataclasses.fields(Site):
            setattr(site, field.name, getattr(own, field.name))
        site.needs_view = site.outcome is Outcome.MIGRATED and not self.decisions.view
        return users

    def _rewrite_macro(self, name: str, opened: List[Site], sites: List[Site]) -> List[Site]:
        """Of uses that cannot all be opened; the same sites if that is no better."""
        group = macro_body.Group(self.whole, self.items, self.decisions, self.expander)
        try:
            new = group.sites(name, self._static_view, self.ignored.covers)
        except NotMigrated as error:
            for site in opened:
                if site.outcome is Outcome.SKIPPED:
                    site.reason = f"{site.reason}; {error.reason}"
            return sites
        if _migrated(opened) > _migrated(new):
            return sites
        for site in new:
            site.needs_view = site.outcome is Outcome.MIGRATED and not self.decisions.view
        replaced = {id(site) for site in opened}
        return [site for site in sites if id(site) not in replaced] + new

    def _static_view(self, path: str) -> str:
        if self.decisions.view:
            return self.decisions.view
        if path in self.asked:
            raise self.asked[path]
        if path not in self.modules:
            raise Refused(f"{path} has uses that were not understood")
        entry.refuse_static(self.modules[path].entry)
        return self.modules[path].variable

    @functools.cached_property
    def expander(self) -> Expander:
        return Expander(self.whole, self.whole.files)

    def _twins(self, function: Function) -> Optional[List[Tuple[Project, Function]]]:
        words = {word.decode() for word in _words(function.text)}
        if words.isdisjoint(self._leaving.matter):
            return None
        try:
            return self._leaving.twins(function)
        except CannotExpand:
            return []

    @functools.cached_property
    def _leaving(self) -> Expander:
        """Of all files that may define a macro that leaves a function."""
        files = list(self.whole.files)
        for path, item in self.items.items():
            if path not in self.files and _DEFINES_A_WAY_OUT.search(item.data):
                try:
                    files.append(check_project.parse_c(item, ()))
                except TooDeep:
                    continue
        return Expander(self.whole, files, pairs=False)

    def _find_modules(self) -> None:
        with_sites = [file for file in self.whole.files if any(f.of(Kind.ENSURE) for f in self._functions(file))]
        if self.decisions.view:
            return
        entries = entry.find(self.items.values())
        swig_files = [file for file in with_sites if file.path.lower().endswith(sources.SWIG_SUFFIXES)]
        chosen: Dict[Tuple[str, str], Tuple[entry.Entry, List[CFile]]] = {}
        for file in with_sites:
            try:
                found = entry.choose(entries, file, swig_files)
            except NotMigrated as error:
                self.asked[file.path] = error
            else:
                chosen.setdefault((found.item.path, found.name), (found, []))[1].append(file)
        words = {word for item in self.items.values() for word in _words(item.data)} if chosen else set()
        for found, files in chosen.values():
            made = entry.module(found, files, words)
            self.modules.update({file.path: made for file in files})

    def _functions(self, file: CFile) -> List[Function]:
        return [function for function in self.whole.functions if function.file is file]

    def _site(self, function: Function, ensure: Event) -> Site:
        kind = macro_pair.MacroPair if ensure.macro is not None else pair.Pair
        try:
            self._refuse_ignored(function, ensure)
            if ensure.macro is not None and ensure.macro.stands_for:
                other = ensure.macro.name
                raise Refused(f"{other} is another name of PyGILState_Ensure: write it out, and run this again")
            found = Found()
            view = functools.partial(self._view, function, ensure, found)
            site = pair.migrate(kind, self.whole, function, ensure, self.decisions, view, self._twins)
        except NotMigrated as error:
            return error.site(function.file.span(ensure.node), shown_name(function))
        return dataclasses.replace(site, needs_view=found.static, store=found.store, notes=(*site.notes, *found.notes))

    def _refuse_ignored(self, function: Function, ensure: Event) -> None:
        """By a comment at the site, or at the macro that it goes through: `pep788 check` does not report it either."""
        places = [function.file.span(ensure.node)]
        if ensure.macro is not None:
            places.append(ensure.macro.file.span(ensure.macro.node))
        if any(map(self.ignored.covers, places)):
            raise Refused(IGNORED)

    def _unless_ignored(self, site: Site) -> Site:
        return Site(site.span, site.function, Outcome.SKIPPED, IGNORED) if self.ignored.covers(site.span) else site

    def _view(self, function: Function, ensure: Event, found: "Found") -> str:
        """What to take it from, which is noted in `found`, too."""
        if self.decisions.view:
            return self.decisions.view
        path = function.file.path
        holder = self._holder(function, ensure, found)
        if holder is not None and holder.store.changes and not self.options.native and path not in self.modules:
            holder = None  # where Pep788_Init is to be called is not known
        if holder is not None:
            found.store = holder.store
            found.notes.append(STORED.format(name=holder.store.name))
            return holder.expression
        expression = self._static_view(path)
        found.static = True
        return expression

    def _holder(self, function: Function, ensure: Event, found: "Found") -> Optional[Holder]:
        try:
            return self.holders.of(function, ensure) if self.decisions.user_data else None
        except NoHolder as error:
            found.notes += [str(error)] if str(error) else []
            return None

    def _scoped(self) -> Iterator[Site]:
        """gil_scoped_acquire of pybind11 and nanobind."""
        bindings = scoped.Bindings(self.items)
        for function in self.whole.functions:
            for event in function.of(Kind.SCOPED_ACQUIRE) if not embeds(function) else ():
                if function.owner == "gil_scoped_acquire" or event.macro is not None:
                    continue
                try:
                    self._refuse_ignored(function, event)
                    site, module = scoped.migrate(self.whole, function, event, self.decisions, bindings)
                    yield dataclasses.replace(site, module=module)
                except NotMigrated as error:
                    yield error.site(function.file.span(event.node), shown_name(function))

    def _others(self) -> Iterator[Site]:
        for rule in registry.all_rules():
            if rule.id in ELSEWHERE:
                for finding in rule.run(self.whole):
                    yield Site(finding.span, finding.function, Outcome.SKIPPED, ELSEWHERE[rule.id])
        sources_of_cython = {item.path: item for item in self.others}
        for file in self.whole.cython:
            yield from cython_split.sites(
                file, sources_of_cython, self.decisions, self.ignored.covers, self.options.native
            )
            for call in file.calls:
                if call.name == names.ENSURE:
                    yield Site(file.span_of_call(call), call.function, Outcome.SKIPPED, "Cython code is not rewritten")
        yield from self._not_seen()

    def _not_seen(self) -> Iterator[Site]:
        """The name where no call was found: in code that was not parsed, is not compiled, or keeps the function."""
        seen = {(function.file.path, e.start) for function in self.whole.functions for e in function.of(Kind.ENSURE)}
        for item in self.items.values():
            for found in _ENSURE_OR_LITERAL.finditer(item.data):
                at = found.start()
                if found.group("name") and (item.path, at) not in seen and not ctree.in_directive(item.data, at):
                    span = edits.span(item.path, item.data, at, found.end())
                    objective = item.path.lower().endswith(pair.OBJECTIVE_C)
                    yield Site(span, "", Outcome.SKIPPED, pair.NO_OBJECTIVE_C if objective else NOT_SEEN)
        yield from self._unused_macros()

    def _unused_macros(self) -> Iterator[Site]:
        """Those that no site goes through: of no use here, or of one outside of functions that were understood."""
        used = {e.macro for function in self.whole.functions for e in function.of(Kind.ENSURE) if e.macro is not None}
        names_used = {name for macro in used for name in (macro.name, *macro.through)}
        for macro in self.whole.macros.values():
            if ENSURE_NAME.search(macro.body) and macro.name not in names_used:
                span = macro.file.span(macro.node.child_by_field_name("name"))
                yield Site(span, macro.name, Outcome.SKIPPED, UNUSED_MACRO)

    def _old_limited_api(self) -> Iterator[str]:
        """In the sources, and in what builds them: the header does not compile there."""
        texts = {item.path: item.data for item in self.items.values()}
        for folder in map(pathlib.Path, self.options.paths):
            for name in BUILD_FILES:
                try:
                    texts[(folder / name).as_posix()] = (folder / name).read_bytes()
                except OSError:  # not there, or not to be read: a note less
                    continue
        for path, data in sorted(texts.items()):
            for found in _LIMITED_API.finditer(data):
                if int(found.group(1), 16) < OLDEST:
                    value = found.group(1).decode()
                    yield f"{path}: Py_LIMITED_API is {value}, and pep788.h needs 0x{OLDEST:08x} or newer: raise it"
                    break

    # --- files

    def _edit(self) -> None:
        """Edit and check; what fails is taken out and all is done again, so that no view is made for nothing."""
        while True:
            failed = self._try()
            if not failed:
                break
            for path, error in failed.items():
                self._fail(path, error)
        self._show_views()

    def _try(self) -> Dict[str, NotMigrated]:
        """Make all edits; returns what is wrong with the result, by path."""
        self.report.before, self.report.after = {}, {}
        changes: Dict[str, List[Edit]] = {}
        for site in self._migrated():
            changes.setdefault(site.span.path, []).extend(site.edits)
        failed = self._set_up(changes)
        for path in {*changes, *self.report.set_up}:
            data = self._data(path)
            found = [*changes.get(path, ()), *self.report.set_up.get(path, ())]
            if not found:
                continue
            try:
                self.report.before[path], self.report.after[path] = data, edits.apply(data, found)
            except edits.Overlap:
                failed[path] = Worse("two sites are in each other's way")
        return failed or self._worse()

    def _set_up(self, changed: Iterable[str]) -> Dict[str, NotMigrated]:
        """Fill in the edits that no site has; returns where that does not work."""
        self.report.set_up = {}
        failed: Dict[str, NotMigrated] = {}
        files = dict(self.files)
        structs: Dict[str, int] = {}
        for store in self._stores():
            files.update(store.files)
            structs[store.struct[0]] = min(store.struct[1], structs.get(store.struct[0], store.struct[1]))
            for path, found in store.changes.items():
                self.report.set_up.setdefault(path, []).extend(found)
        paths = {*changed, *self.report.set_up}
        modules = {site.module.path: site.module for site in self._migrated() if site.module is not None}
        users = [(site.span.path, site.module.binding) for site in self._migrated() if site.module is not None]
        files.update({path: self._parsed(path) for path in modules})
        only = {path for path, _ in users} - {site.span.path for site in self._migrated() if site.module is None}
        paths -= only | set(self._cython)
        try:
            for path, found in scoped.set_up(modules.values(), files, users, self.options.vendored).items():
                self.report.set_up.setdefault(path, []).extend(found)
        except NotMigrated as error:
            failed.update({path: error for path in only})
        for change in {id(site.macros): site.macros for site in self._migrated() if site.macros is not None}.values():
            for path, found in change.changes.items():
                self.report.set_up.setdefault(path, []).extend(found)
        for module in self._used_modules():
            paths -= {module.entry.item.path, *(file.path for file in module.files)}
            try:
                for path, found in entry.changes(module, self.options.vendored, self.options.native, structs).items():
                    self.report.set_up.setdefault(path, []).extend(found)
            except NotMigrated as error:
                failed[module.entry.item.path] = error
        for path in paths if not self.options.native else ():
            try:
                include = entry.include(files.get(path) or self._parsed(path), self.options.vendored, structs.get(path))
                self.report.set_up.setdefault(path, []).extend(include)
            except NotMigrated as error:
                failed[path] = error
        return failed

    def _data(self, path: str) -> bytes:
        return self.items[path].data if path in self.items else self._cython[path].data

    def _stale(self) -> Iterator[str]:
        """What Cython has written from a file that changes."""
        there = {item.path for item in self.others}
        for path in sorted(set(self.report.after) & set(self._cython)):
            for written in (path[: -len(".pyx")] + suffix for suffix in (".c", ".cpp", ".cxx")):
                if written in there:
                    yield f"{written} was generated from {path}: generate it again"

    @functools.cached_property
    def _cython(self) -> Dict[str, CythonFile]:
        return {file.path: file for file in self.whole.cython}

    def _parsed(self, path: str) -> CFile:
        return self.files.get(path) or check_project.parse_c(self.items[path], self.whole.macros)

    def _migrated(self) -> List[Site]:
        return [site for site in self.report.sites if site.outcome is Outcome.MIGRATED]

    def _stores(self) -> List[Store]:
        """The structs whose views are used."""
        return list({id(site.store): site.store for site in self._migrated() if site.store is not None}.values())

    def _used_modules(self) -> List[entry.Module]:
        """Those that have something to set up, with those of their files that need their view."""
        static = {site.span.path for site in self._migrated() if site.needs_view}
        stored = {site.span.path for site in self._migrated() if site.store is not None and site.store.changes}
        paths = sorted((static | stored) & set(self.modules))
        modules = {id(self.modules[path]): self.modules[path] for path in paths}
        return [
            dataclasses.replace(module, files=[file for file in module.files if file.path in static])
            for module in modules.values()
        ]

    def _fail(self, path: str, error: NotMigrated) -> None:
        """Of a file, or of all files that rely on the init function, on the struct or on the macro in it."""
        shared: List[object] = []
        for site in self._migrated():
            uses = {site.span.path, *(site.store.changes if site.store is not None else ())}
            uses.update(site.macros.changes if site.macros is not None else ())
            uses.update({site.module.path} if site.module is not None else ())
            if site.needs_view or (site.store is not None and site.span.path in self.modules):
                uses.add(self.modules[site.span.path].entry.item.path)
            if path in uses:
                shared.append(site.macros)
                site.fail(error.outcome, error.reason, error.options)
        for site in self._migrated():
            if site.macros is not None and any(site.macros is other for other in shared):
                site.fail(error.outcome, error.reason, error.options)

    def _worse(self) -> Dict[str, NotMigrated]:
        """Parse and check the result: what is found in it now must have been there before."""
        failed: Dict[str, NotMigrated] = {}
        for path, data in self.report.after.items():
            if path in self._cython:
                if not _is_cython(path, data, len(self._cython[path].functions)):
                    failed[path] = Worse(f"the result does not parse: {path}")
            elif _errors(self.items[path], self.whole) < _errors(Item(path, data), self.whole):
                failed[path] = Worse(f"the result does not parse: {path}")
        names = {(site.span.path, site.function.rsplit("::", 1)[-1]) for site in self._migrated()}
        for path, function, rule in (self._found(self.report.after) - self._found({})) if not failed else ():
            if (path, function) in names:
                failed[path] = Worse(f"{function} would have a {rule} of `pep788 check`")
        return failed

    def _found(self, changed: Dict[str, bytes]) -> Set[Tuple[str, str, str]]:
        items = [Item(file.path, changed.get(file.path, file.data)) for file in self.whole.files]
        report = check_engine.check(check_engine.Options(paths=(), select=WORSE), lambda: items)
        return {(finding.span.path, finding.function, finding.rule) for finding in report.findings}

    @property
    def bindings(self) -> List[str]:
        """The libraries whose headers of ours are needed."""
        return sorted({site.module.binding.library for site in self._migrated() if site.module is not None})

    def _show_views(self) -> None:
        if self.decisions.view and self._migrated():
            self.report.views.append(View(self.decisions.view, "", 0, "by decision"))
        for store in self._stores():
            path, line, _ = store.place
            self.report.views.append(View(f"{store.name}.{store.member}", path, line, store.how))
        for start in {site.module.path: site.module for site in self._migrated() if site.module is not None}.values():
            line = self._parsed(start.path).data.count(b"\n", 0, start.at) + 1
            how = "made already" if start.exists else "to be made"
            how = f"{how} by init() in {start.binding.macro}, of the main interpreter or the first that imports it"
            self.report.views.append(View(f"pep788::{start.binding.space}", start.path, line, how))
        for path in sorted({site.span.path for site in self._migrated()} & set(self._cython)):
            line = min(site.span.line for site in self._migrated() if site.span.path == path)
            how = "to be made at the top, of the main interpreter"
            self.report.views.append(View(cython_split.VIEW, path, line, how))
            self.report.notes.append(SUBINTERPRETERS.format(variable=cython_split.VIEW))
        for module in self._used_modules():
            if not module.files:
                continue
            path, name = module.entry.item.path, module.entry.name
            function = module.entry.function
            line = function.file.span(function.node).line if function is not None else 1
            made = "made already" if module.exists else "to be made"
            self.report.views.append(View(module.variable, path, line, f"{made} in {name}, of the main interpreter"))
            self.report.notes.append(SUBINTERPRETERS.format(variable=module.variable))


def _is_binary(found: sources.Found) -> bool:
    return isinstance(found, Item) and found.suffix in sources.BINARY_SUFFIXES


def _migrated(sites: List[Site]) -> int:
    return sum(site.outcome is Outcome.MIGRATED for site in sites)


def _is_cython(path: str, data: bytes, most: int) -> bool:
    """Cython's parser takes it, and none of its functions is declared `with gil`, or all as before."""
    try:
        return len(cython_tree.parse(path, data).functions) in (0, most)
    except (cython_tree.CannotParse, UnicodeDecodeError, RecursionError):
        return False


def _cython_texts(whole: Project) -> Dict[str, bytes]:
    return {file.path: file.data for file in whole.cython}


def _errors(item: Item, whole: Project) -> int:
    """How often the parser was lost."""
    try:
        root = check_project.parse_c(item, whole.macros).root
    except TooDeep:
        return len(item.data)
    return sum(node.type == "ERROR" or node.is_missing for node in walk(root))


def _words(data: bytes) -> Set[bytes]:
    return set(re.findall(rb"[A-Za-z_]\w*", data))
