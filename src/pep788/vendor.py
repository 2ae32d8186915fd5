"""Copying pep788.h (and the headers for C++) into another project, and keeping that copy up to date.

Next to the header goes ``pep788.LICENSE``: the terms, and which version was
copied with which checksum.  That record is how a copy that somebody edited is
told from an old one: the latter may be replaced, the former never silently.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import os
import pathlib
import re
import tempfile
from typing import Dict, Iterable, List, Optional

HEADER_NAME = "pep788.h"
LICENSE_NAME = "pep788.LICENSE"
CPP = ["pep788.hpp"]
BINDING = [*CPP, "pep788/binding.hpp"]
CHOICES: Dict[str, List[str]] = {
    "cpp": CPP,
    "pybind11": [*BINDING, "pep788/pybind11.hpp"],
    "nanobind": [*BINDING, "pep788/nanobind.hpp"],
}
"""What may be copied next to pep788.h, by option; `/` for every system."""

ZERO_BSD = """\
Copyright (c) 2026 The pep788 authors

Permission to use, copy, modify, and/or distribute this software for any
purpose with or without fee is hereby granted.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH
REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF MERCHANTABILITY AND
FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT,
INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES WHATSOEVER RESULTING FROM LOSS
OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER
TORTIOUS ACTION, ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF
THIS SOFTWARE.
"""

_RECORD = re.compile(r"^(pep788(?:/\w+)?\.h(?:pp)?) (\S+), sha256 ([0-9a-f]{64})$", re.MULTILINE)


class State(enum.Enum):
    """What is found at the place a file is to be copied to."""

    MISSING = "missing"
    CURRENT = "up to date"
    OUTDATED = "an older copy, unchanged since it was made"
    CHANGED = "changed since it was copied, a link, or not copied by pep788"


@dataclasses.dataclass(frozen=True)
class File:
    """One file of the copy: where it goes, what it should hold, what is there."""

    path: pathlib.Path
    content: bytes
    state: State


class VendorError(Exception):
    """The copy was not made; the message says why and what to do."""


def header_version(text: str) -> str:
    """Return the version that the header itself states."""
    found = re.search(r'^\s*#\s*define\s+PEP788_VERSION\s+"([^"]+)"', text, re.MULTILINE)
    if found is None:
        raise VendorError(f"{HEADER_NAME} does not state its version; reinstall pep788")
    return found.group(1)


def license_text(version: str, checksums: Dict[str, str]) -> str:
    """Return the license file for these headers, by name, of this version."""
    lines = "".join(f"{name} {version}, sha256 {checksum}\n" for name, checksum in checksums.items())
    return (
        f"{lines}Copied by `pep788 vendor`, which uses the above to see whether a header\n"
        "was changed here. License of the headers: 0BSD.\n"
        "\n" + ZERO_BSD
    )


def plan(source: pathlib.Path, folder: pathlib.Path, choices: Iterable[str] = ()) -> List[File]:
    """Compare the copy in `folder` with the header `source`; changes nothing.

    `choices`: keys of CHOICES, whose headers are to be there, too; those that a copy has stay in it.
    """
    header = source.read_bytes()
    version = header_version(header.decode("utf-8"))
    terms_there = _read(folder / LICENSE_NAME)
    recorded = _recorded_checksums(terms_there)
    wanted = {HEADER_NAME: header}
    chosen = {name for choice in choices for name in CHOICES[choice]}
    for name in dict.fromkeys(name for names in CHOICES.values() for name in names):
        if name in chosen or name in recorded:
            wanted[name] = (source.parent / name).read_bytes()
    checksums = {name: _checksum(content) for name, content in wanted.items()}
    files = []
    for name, content in wanted.items():
        there = _read(folder / name)
        known = there is not None and recorded.get(name) == _checksum(there)
        files.append(File(folder / name, content, _state(there, content, known)))
    terms = license_text(version, checksums).encode("utf-8")
    files.append(File(folder / LICENSE_NAME, terms, _state(terms_there, terms, bool(recorded))))
    return [
        # Somebody made the link on purpose, and writing would put a file in its place.
        dataclasses.replace(file, state=State.CHANGED)
        if file.state is not State.CURRENT and file.path.is_symlink()
        else file
        for file in files
    ]


def copy(files: List[File], force: bool) -> List[File]:
    """Write what is not up to date and return it; all or nothing is refused."""
    changed = [file for file in files if file.state is State.CHANGED]
    if changed and not force:
        names = " and ".join(str(file.path) for file in changed)
        raise VendorError(
            f"{names}: {State.CHANGED.value}; nothing was written. Save your changes, "
            "then repeat with --force to overwrite them"
        )
    todo = [file for file in files if file.state is not State.CURRENT]
    for file in todo:
        file.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(file.path, file.content)
        except OSError as error:  # it names the temporary file, which nobody has heard of
            raise VendorError(f"{file.path} cannot be written: {error.strerror or error}") from error
    return todo


def _state(there: Optional[bytes], wanted: bytes, ours: bool) -> State:
    if there is None:
        return State.MISSING
    if _normal(there) == _normal(wanted):
        return State.CURRENT
    return State.OUTDATED if ours else State.CHANGED


def _normal(content: bytes) -> bytes:
    """Ignore line endings: git rewrites them on checkout on Windows."""
    return content.replace(b"\r\n", b"\n")


def _checksum(content: bytes) -> str:
    return hashlib.sha256(_normal(content)).hexdigest()


def _recorded_checksums(terms: Optional[bytes]) -> Dict[str, str]:
    """Return the checksums by name that a license file records, if that file is as we wrote it."""
    text = "" if terms is None else _normal(terms).decode("utf-8", "replace")
    found = _RECORD.findall(text)
    checksums = {name: checksum for name, _, checksum in found}
    if not found or text != license_text(found[0][1], checksums):
        return {}
    return checksums


def _read(path: pathlib.Path) -> Optional[bytes]:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _write(path: pathlib.Path, content: bytes) -> None:
    """Write through a temporary file: a full disk must not leave half a header."""
    descriptor, name = tempfile.mkstemp(prefix=path.name + ".", dir=str(path.parent))
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
