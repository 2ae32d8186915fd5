"""Directives that write the reference: of a header out of its comments, of the commands out of their parsers.

And `pages`, a table of contents of those pages that are there.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import pathlib
import re
import sys
import types
from collections.abc import Callable
from typing import Any
from unittest import mock

import header_comments
import pep788
from docutils import nodes
from docutils.parsers.rst import directives
from header_comments import Item
from pep788 import cli
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.directives.other import TocTree
from sphinx.util import docname_join
from sphinx.util.docutils import SphinxDirective
from sphinx.util.matching import patfilter

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "src" / "pep788" / "include"
CONTRACT = re.compile(r"\b[GVEFN]\d{1,2}\b")
NAME = re.compile(r"`[^`]+`|(?<![\w.])docs/[\w/]+\.md|\b[\w:]*\w(?:\(\))?")
LITERAL = re.compile(r"_?Py[A-Z_]\w*|(?:PY_|PEP788_|Pep788_|pep788::|std::|py::|nb::)\w*|\w+Error|NULL|NDEBUG")


def markdown(text: str, roles: dict[str, str], page: str) -> str:
    """The text of a comment as Markdown for MyST: entries as a list, code as code, and names as links."""
    out: list[str] = []
    code: list[str] = []
    for line in [*text.split("\n"), None]:
        in_list = bool(out) and out[-1].startswith("- ")
        if line is not None and line.startswith("    ") and not in_list:
            code.append(line[4:])
        elif code and line == "":
            code.append(line)
        else:
            out += fenced(code)
            code = []
            if line is None:
                break
            entry = header_comments.ENTRY.match(line)
            if entry:
                out.append(f"- `{entry['name']}`: {prose(entry['text'], roles, page)}")
            elif in_list and line:
                out[-1] += " " + prose(line.strip(), roles, page)
            else:
                out.append(prose(line, roles, page))
    return "\n".join(out)


def fenced(code: list[str]) -> list[str]:
    return ["```cpp", *"\n".join(code).strip("\n").split("\n"), "```", ""] if code else []


def prose(text: str, roles: dict[str, str], page: str) -> str:
    """A line of prose; what the header declares becomes a link, other identifiers a literal."""
    up = "../" * page.count("/")

    def linked(found: re.Match[str]) -> str:
        word = found[0]
        name = word.strip("`").removesuffix("()")
        if name in roles:
            return f"{{{roles[name]}}}`{name}`"
        if word.startswith("`"):
            return word
        if word.startswith("docs/"):
            return f"[{word}]({up}{word})"
        if CONTRACT.fullmatch(word):
            return f"[{word}]({up}docs/contract.md)"
        if LITERAL.match(word):
            return f"`{word}`"
        return word

    escaped = re.sub(r"(?<!`)([<*])(?!`)", r"\\\1", text)
    return NAME.sub(linked, escaped)


class HeaderReference(SphinxDirective):
    """What a header of pep788 declares; the argument may be a pattern, and what is not there is left out."""

    required_arguments = 1
    option_spec = {"names": directives.unchanged, "only": lambda text: directives.choice(text, ("lists", "items"))}

    def run(self) -> list[nodes.Node]:
        patterns = self.options.get("names", "*").split()
        written: list[str] = []
        for path in sorted(INCLUDE.glob(self.arguments[0])):
            self.env.note_dependency(str(path))
            try:
                written += self.of_header(path, patterns)
            except header_comments.HeaderError as error:
                raise self.error(f"{path.name}: {error}") from error
        return list(self.parse_text_to_nodes("\n".join(written), allow_section_headings=True)) if written else []

    def of_header(self, path: pathlib.Path, patterns: list[str]) -> list[str]:
        """One header as lines of Markdown."""
        header = path.read_text(encoding="utf-8")
        top = header_comments.introduction(header)
        if path.suffix == ".h":
            items = header_comments.c_items(header)
            roles = c_roles(items, top)
            if self.options.get("only") == "lists":
                return self.lists(top, roles)
            wanted = [each for each in items if any(fnmatch.fnmatch(each.name, pattern) for pattern in patterns)]
            return [line for each in wanted for line in self.described(each, "c", roles)]
        others = [each.read_text(encoding="utf-8") for each in sorted(INCLUDE.rglob("*.hpp")) if each != path]
        items = header_comments.cpp_items(header, *others)
        if not items:
            return []
        roles = {
            **c_roles(header_comments.c_items((INCLUDE / "pep788.h").read_text(encoding="utf-8")), None),
            **{f"{each.namespace}::{each.name}": "cpp:any" for each in items},
        }
        text = re.sub(r"^\S+\.hpp: ", "", top.text)
        lines = [f"## {path.relative_to(INCLUDE).as_posix()}", "", markdown(text, roles, self.env.docname), ""]
        for each in items:
            lines += [f"```{{cpp:namespace}} {each.namespace}", "```", "", *self.described(each, "cpp", roles)]
        return [*lines, "```{cpp:namespace} NULL", "```", ""]

    def lists(self, top: header_comments.Introduction, roles: dict[str, str]) -> list[str]:
        """What can be defined before the include or set in the environment."""
        lines = []
        for heading, entries in top.lists.items():
            directive = "envvar" if "environment" in heading else "c:macro"
            lines += [f"{heading}:", ""]
            for name, text in entries.items():
                sign, _, value = name.partition("=")
                text = f"`{name}`: {text}" if value else text
                body = markdown(text, roles, self.env.docname)
                lines += [f"````{{{directive}}} {sign}", "", body, "````", ""]
        return lines

    def described(self, item: Item, domain: str, roles: dict[str, str], depth: int = 0) -> list[str]:
        """A declaration with its members, as nested directives: the outer fence is the longer one."""
        fence = "`" * (6 - depth)
        text = markdown(item.text, roles, self.env.docname)
        lines = [f"{fence}{{{domain}:{item.kind}}} {item.signature}", "", text, ""]
        for member in item.members:
            lines += self.described(member, domain, roles, depth + 1)
        return [*lines, fence, ""]


def c_roles(items: list[Item], top: header_comments.Introduction | None) -> dict[str, str]:
    """The role by which each name of pep788.h is linked."""
    names = {"function": "c:func", "type": "c:type", "enum": "c:enum", "macro": "c:macro"}
    roles = {each.name: names[each.kind] for each in items}
    roles.update({member.name: "c:enumerator" for each in items for member in each.members})
    if top is not None:
        for heading, entries in top.lists.items():
            role = "envvar" if "environment" in heading else "c:macro"
            roles.update({name.partition("=")[0]: role for name in entries})
    return roles


class CommandReference(SphinxDirective):
    """`pep788` and the tools it runs, each by the parser it has; the parser of a tool is met when the tool uses it."""

    def run(self) -> list[nodes.Node]:
        lines = self.described("pep788", cli.build_parser())
        for name in cli.TOOLS:
            lines += self.described(f"pep788 {name}", parser_of(importlib.import_module(f"pep788.{name}").main))
        found = self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)
        for section in [each for node in found for each in node.findall(nodes.section)]:
            if section.next_node(nodes.title).astext() in cli.TOOLS:  # what the first parser knows of them: a line
                section.parent.remove(section)
        for node in found:
            for text in [each for each in node.findall(nodes.paragraph) if "\n\n" in each.astext()]:
                text.replace_self(paragraphs(text.astext()))
            for usage in [each for each in node.findall(nodes.literal_block) if "\n" in each.astext()]:
                each_way = re.sub(r"\n +(?=pep788 )", "\n", usage.astext())
                usage.replace_self(nodes.literal_block("", each_way, classes=usage["classes"]))
        return list(found)

    def described(self, program: str, parser: argparse.ArgumentParser) -> list[str]:
        """The directive of sphinx-argparse-cli, which imports a module for the parser and then forgets the module."""
        module = types.ModuleType(f"parser_of_{program.replace(' ', '_')}")
        module.__dict__["parser"] = lambda: parser
        sys.modules[module.__name__] = module
        settings = [f":module: {module.__name__}", ":func: parser", f":prog: {program}"]
        settings += [f":title: {program}", ":no_default_values:", ":group_title_prefix:"]
        return ["```{sphinx_argparse_cli}", *settings, "```", ""]


def paragraphs(text: str) -> list[nodes.Node]:
    """Those of a description, which argparse has as one text; one with indented lines is a table."""
    return [
        nodes.literal_block("", part, language="none") if "\n " in part else nodes.paragraph("", " ".join(part.split()))
        for part in text.strip().split("\n\n")
    ]


class Met(Exception):
    """The parser of a tool, just before it reads the arguments."""


def parser_of(main: Callable[[list[str]], object]) -> argparse.ArgumentParser:
    """The parser that a tool makes for itself."""

    def meet(parser: argparse.ArgumentParser, *arguments: object, **keywords: object) -> None:
        raise Met(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", meet):
        try:
            main([])
        except Met as met:
            parser: argparse.ArgumentParser = met.args[0]
            return parser
    raise RuntimeError(f"{main.__module__}.main reads its arguments without argparse")


class ModuleReference(SphinxDirective):
    """`automodule` for each public module that says in `__all__` what it offers to callers, the package first."""

    def run(self) -> list[nodes.Node]:
        package = pathlib.Path(pep788.__file__).parent
        names = sorted(path.stem if path.suffix else path.name for path in package.iterdir() if _is_module(path))
        modules = [pep788, *(importlib.import_module(f"pep788.{name}") for name in names)]
        lines: list[str] = []
        for module in modules:
            offered = [name for name in getattr(module, "__all__", []) if name not in ("main", "__version__")]
            if offered:
                lines += [f"## `{module.__name__}`", "", "```{eval-rst}", f".. automodule:: {module.__name__}"]
                lines += [f"   :members: {', '.join(offered)}", "   :imported-members:", "```", ""]
        return list(self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True))


class Pages(TocTree):
    """A toctree without the lines, names or patterns, that no page of this checkout answers to."""

    content: StringList

    def run(self) -> list[nodes.Node]:
        there = [line for line in self.content if patfilter(self.env.found_docs, docname_join(self.env.docname, line))]
        if not there:
            return []
        self.content = StringList(there, source=self.env.docname)
        self.options["glob"] = True
        return list(super().run())


def _is_module(path: pathlib.Path) -> bool:
    public = not path.name.startswith("_")
    return public and (path.suffix == ".py" or (path / "__init__.py").exists())


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("header-reference", HeaderReference)
    app.add_directive("command-reference", CommandReference)
    app.add_directive("module-reference", ModuleReference)
    app.add_directive("pages", Pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
