"""The documentation as a site: `make docs`.

The folder of the sources is the checkout itself, so that the links between the pages are the same here and on GitHub.
"""

from __future__ import annotations

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))

import pep788  # noqa: E402  # installed by `make docs`; a mistake in it shows here, not in the middle of the build

project = "pep788"
author = "the pep788 authors"
copyright = "2026, the pep788 authors"
version = release = pep788.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_argparse_cli", "sphinx_copybutton", "pep788_reference"]
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "docs/**", "bench/README.md", "examples/**/README.md"]
# Everything else at the top is not even looked at: build/ can hold a whole Debian.
exclude_patterns = ["docs/_*"] + [
    path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("docs", "bench", "examples")
]
nitpicky = True
nitpick_ignore_regex = [
    ("c:identifier", r"(_?Py(?!InterpreterGuard|InterpreterView|ThreadStateToken).*|size_t|uint.*)"),  # CPython's own
    ("cpp:identifier", r".*"),  # parameters of templates, and the classes of other libraries
    ("py:class", r".*"),  # of the standard library: no inventory is downloaded
]

myst_enable_extensions = ["attrs_inline"]
myst_heading_anchors = 4
highlight_language = "none"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
c_maximum_signature_line_length = cpp_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True

smartquotes_action = "qe"  # no dashes: --option stays what it is

html_theme = "furo"
html_title = f"pep788 {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_root"]  # the front page is docs/index.html
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
