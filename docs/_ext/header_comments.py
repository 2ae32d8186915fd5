"""The reference of a C or C++ header, out of the comments that stand in it.

What is documented, and how it is recognised:

- C: a comment in the first column, and below it `static inline ... Pep788_Name(...)`, `typedef ... Name;`, or
  `#define PyName pep788_name`. The last says nothing of arguments, so there the comment begins with the prototype.
- C++: classes, functions and `using` in the first column of any namespace but `detail`, and the public members of
  those classes. What comes from a class of `detail`, as a base or by `using`, is shown where it is used.
- Both: the comment at the top of the file; in it, lists of `NAME   text` below a line that ends with a colon.

What is public and has no comment is an error, except members of classes. Nothing here needs Sphinx.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap

PEP_788 = r"Py(?:InterpreterGuard|InterpreterView|ThreadState)_\w+"
COMMENT = re.compile(r"/\*(?P<text>(?:(?!\*/).)*)\*/[ \t]*\n", re.DOTALL)
ENTRY = re.compile(r"^ {2,3}(?P<name>\w\S*) +(?P<text>\S.*)$")


class HeaderError(Exception):
    """The header is not written as this module expects; the message says where."""


@dataclasses.dataclass(frozen=True)
class Item:
    """A documented declaration. `kind` is that of a directive of Sphinx's C or C++ domain."""

    kind: str
    signature: str
    text: str
    members: tuple[Item, ...] = ()
    namespace: str = ""

    @property
    def name(self) -> str:
        """The name that is declared, without its namespace."""
        before = re.split(r"[(;={]|\s+:\s", self.signature.replace("operator bool(", "operator_bool("), maxsplit=1)[0]
        found = re.findall(r"~?\w+", before)
        return str(found[-1])


@dataclasses.dataclass(frozen=True)
class Introduction:
    """The comment at the top of a header: its prose, and its lists of `NAME   text` by the line above each."""

    text: str
    lists: dict[str, dict[str, str]]


# --- comments -------------------------------------------------------------------------------------------------


def comment_text(raw: str) -> str:
    """The text between the marks of a comment, without the stars and the indentation they cause."""
    lines = [re.sub(r"^\s*\* ?", "", line) if re.match(r"\s*\*", line) else line for line in raw.split("\n")]
    first, rest = lines[0].strip(), textwrap.dedent("\n".join(lines[1:]))
    return f"{first}\n{rest}".strip("\n").rstrip()


def introduction(header: str) -> Introduction:
    """Read the comment at the top; the license and what is addressed to maintainers (Contents) is left out."""
    found = COMMENT.match(header)
    if found is None:
        raise HeaderError("there is no comment at the top")
    text = re.split(r"^(?:Copyright|Contents:)", comment_text(found["text"]), maxsplit=1, flags=re.MULTILINE)[0]
    prose, lists = [], {}
    for part in re.split(r"\n(?=\S.*:\n {2,3}\w)", text.strip()):
        heading, _, rest = part.partition("\n")
        if heading.endswith(":") and re.match(r" {2,3}\S", rest):
            entries, _, after = rest.partition("\n\n")
            lists[heading.rstrip(":")] = _entries(entries)
            prose.append(after)
        else:
            prose.append(part)
    return Introduction("\n\n".join(filter(None, (part.strip("\n") for part in prose))), lists)


def _entries(text: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    name = ""
    for line in text.split("\n"):
        found = ENTRY.match(line)
        if found:
            name = found["name"]
            entries[name] = found["text"]
        elif name:
            entries[name] += " " + line.strip()
    return entries


def _paragraph(text: str) -> tuple[str, str]:
    """The first paragraph on one line, and the rest."""
    first, _, rest = text.partition("\n\n")
    return " ".join(first.split()), rest.strip("\n")


# --- C --------------------------------------------------------------------------------------------------------


def c_items(header: str) -> list[Item]:
    """The documented declarations of a C header, in its order."""
    items = []
    for comment in COMMENT.finditer(header):
        if comment.start() == 0 or header[comment.start() - 1] == "\n":
            item = _c_item(comment_text(comment["text"]), header[comment.end() :])
            if item is not None:
                items.append(item)
    _check_complete(header, {item.name for item in items})
    return items


def _c_item(text: str, code: str) -> Item | None:
    if re.match(rf"#define {PEP_788} pep788_", code):
        prototype, rest = _paragraph(text)
        return Item("function", prototype, rest)
    if found := re.match(r"static inline ([\w \*]*\bPep788_\w+\([^)]*\))\s*\{", code):
        return Item("function", " ".join(found[1].split()), text)
    if found := re.match(r"typedef enum \{(?P<values>.*?)\} (?P<name>\w+);", code, re.DOTALL):
        return Item("enum", found["name"], text, tuple(_enumerators(found["values"])))
    if found := re.match(r"typedef (?:struct \w+|void) (Py\w+|Pep788_\w+);", code):
        return Item("type", found[1], text)
    if found := re.match(r"#define (PEP788_VERSION\w*) ", code):
        return Item("macro", found[1], text)
    return None


def _enumerators(values: str) -> list[Item]:
    found = re.findall(r"^\s*(\w+) = (\d+),?(?:\s*/\*(.*?)\*/)?", values, re.MULTILINE)
    return [Item("enumerator", f"{name} = {number}", text.strip()) for name, number, text in found]


def _check_complete(header: str, documented: set[str]) -> None:
    public = re.findall(r"^static inline [^(;]*\b(Pep788_\w+)\(", header, re.MULTILINE)
    public += re.findall(rf"^#define ({PEP_788}) pep788_", header, re.MULTILINE)
    missing = sorted(set(public) - documented)
    if missing:
        raise HeaderError(f"{', '.join(missing)}: there is no comment in the first column right above")


# --- C++ ------------------------------------------------------------------------------------------------------

DECLARATION = re.compile(
    r"(?:/\*(?P<text>(?:(?!\*/).)*)\*/[ \t]*\n)?"
    r"(?P<template>template <[^\n]*>\n)?"
    r"(?:(?:class|struct) (?P<class>\w+)(?:<[^{]*>)?(?: : public (?P<base>[\w:]+)(?:<(?P<arguments>[^{]*)>)?)? \{\n"
    r"|using (?P<alias>\w+) = (?P<target>[^;]+);"
    r"|inline (?P<function>[\w:<>*& ]+\([^{;]*?\)(?: noexcept)?)\s*\{)",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What stands in the first column of a namespace."""

    namespace: str
    match: re.Match[str]

    @property
    def name(self) -> str:
        return str(self.match["class"] or self.match["alias"] or self.match["function"])


def cpp_items(header: str, *others: str) -> list[Item]:
    """The documented declarations of a C++ header; `others`: headers it includes, for what they have in `detail`."""
    declared = list(_declarations(header))
    known = {_plain(each.name): each for text in others for each in _declarations(text) if _is_detail(each)}
    known.update({_plain(each.name): each for each in declared if _is_detail(each)})
    items = [_cpp_item(each, known) for each in declared if not _is_detail(each) and not _is_definition(each)]
    missing = [item.name for item in items if not item.text]
    if missing:
        raise HeaderError(f"{', '.join(missing)}: there is no comment in the first column right above")
    return items


def _is_detail(declaration: Declaration) -> bool:
    return "detail" in declaration.namespace.split("::")


def _is_definition(declaration: Declaration) -> bool:
    """Of a member, outside of its class."""
    return re.match(r"[^(]*\w::\w+\(", declaration.match["function"] or "") is not None


def _plain(name: str) -> str:
    """A class's name without namespace and arguments."""
    return re.sub(r"<.*", "", name, flags=re.DOTALL).strip().rpartition("::")[2]


def _declarations(header: str) -> list[Declaration]:
    """All of them with the namespace each is in, which begins and ends in lines of its own."""
    found, spaces, at = [], [], 0
    opening = re.compile(r"namespace (\w+)[^;{\n]*\{\n")
    closing = re.compile(r"\} (?://|/\*) namespace")
    while at < len(header):
        if space := opening.match(header, at):
            spaces.append(space[1])
            at = space.end()
        elif closing.match(header, at):
            spaces.pop()
            at = header.index("\n", at) + 1
        elif spaces and (match := DECLARATION.match(header, at)):
            found.append(Declaration("::".join(spaces), match))
            at = _end_of_class(match) if match["class"] else match.end()
        else:
            at = header.find("\n", at) + 1 or len(header)
    return found


def _end_of_class(match: re.Match[str]) -> int:
    """Where its closing brace is, in the first column; the body begins after a newline, perhaps with that."""
    return match.string.index("\n};", match.end() - 1) + 1


def _cpp_item(declaration: Declaration, known: dict[str, Declaration]) -> Item:
    match = declaration.match
    text = comment_text(match["text"] or "")
    template = (match["template"] or "").strip()
    if match["function"]:
        signature = f"{template} {' '.join(match['function'].split())}".strip()
        return Item("function", signature, text, namespace=declaration.namespace)
    if match["class"]:
        signature = f"{template} {match['class']}".strip()
        members = _class_members(declaration, known)
        return Item("class", signature, text, tuple(members), declaration.namespace)
    target = known.get(_plain(match["target"]))
    if target is not None:
        text = text or comment_text(target.match["text"] or "")
        members = [_renamed(each, target.name, declaration.name) for each in _class_members(target, known)]
        return Item("class", f"{template} {declaration.name}".strip(), text, tuple(members), declaration.namespace)
    signature = f"{template} {declaration.name} = {' '.join(match['target'].split())}".strip()
    return Item("type", signature, text, namespace=declaration.namespace)


def _renamed(member: Item, old: str, new: str) -> Item:
    signature = re.sub(rf"\b{old}(?=\()", new, member.signature)
    return dataclasses.replace(member, signature=signature)


def _class_members(declaration: Declaration, known: dict[str, Declaration]) -> list[Item]:
    """Its public members, and those of a base in `detail`, except what every class has: moves, no copies."""
    match = declaration.match
    members = _members(match.string[match.end() : _end_of_class(match)])
    base = known.get(_plain(match["base"])) if match["base"] else None
    if base is not None:
        inherited = [each for each in _class_members(base, known) if each.name != base.name]
        members += [_instantiated(each, base.match["template"] or "", match["arguments"] or "") for each in inherited]
    return members


def _instantiated(member: Item, template: str, arguments: str) -> Item:
    """With the arguments in place of the parameters that are types; those come first in our templates."""
    signature = member.signature
    for parameter, argument in zip(re.findall(r"typename (\w+)", template), arguments.split(",")):
        signature = re.sub(rf"\b{parameter}\b", argument.strip(), signature)
    return dataclasses.replace(member, signature=signature)


def _members(body: str) -> list[Item]:
    parts = re.split(r"^(public|protected|private):\n", "private:\n" + body, flags=re.MULTILINE)[1:]
    public = "\n".join(text for access, text in zip(parts[::2], parts[1::2]) if access == "public")
    public = re.sub(r"^#.*\n", "", public, flags=re.MULTILINE)
    found = []
    member = re.compile(
        r"^ {4}(?:/\*(?P<text>(?:(?!\*/).)*)\*/\s*\n {4})?(?P<code>(?!/\*|\})\S(?:[^;{]|\{\})*?)"
        r"\s*(?P<end>;|\{.*?\}\n|\n {4}\{.*?^ {4}\})",
        re.DOTALL | re.MULTILINE,
    )
    for each in member.finditer(public):
        signature = _signature(each["code"])
        if signature:
            found.append(Item("function", signature, comment_text(each["text"] or "")))
    return found


def _signature(code: str) -> str:
    """The declaration alone, or nothing for what is not shown: deleted, moves, destructors, assertions."""
    if re.match("static_assert", code) or re.search(r"= delete|&&|~|operator=", code) and "template" not in code:
        return ""
    code = re.sub(r"(\)\s*(?:noexcept)?)\s*:(?!:).*", r"\1", code, flags=re.DOTALL)  # what the constructor initializes
    code = re.sub(r"\binline\s+", "", code)
    code = re.sub(r",\s*typename std::enable_if<.*?>::type = 0", "", code, flags=re.DOTALL)
    return " ".join(code.split())
