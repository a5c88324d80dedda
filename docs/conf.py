"""Sphinx's configuration. ``make docs`` takes each warning for an error."""

import os

os.environ["TRACEKIT_NO_EXTENSIONS"] = "1"  # the methods of compiled classes have signatures without types

from tracekit import __version__

project = "tracekit"
author = "the tracekit contributors"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
root_doc = "index"
html_theme = "furo"
html_title = f"tracekit {version}"
html_show_copyright = False
myst_heading_anchors = 4
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
# "Span" in a signature: one of tracekit, and one of each bridge.
suppress_warnings = ["ref.python"]
# References that the pages write must lead somewhere. Annotations name classes of other projects, whose inventories are
# on the network, and type variables.
nitpicky = True
nitpick_ignore_regex = [("py:class", ".*")]
# ``make links`` asks each host once more before a link is dead.
linkcheck_retries = 2
linkcheck_timeout = 15


def show_literally(*arguments):
    """Show the indented blocks of a docstring, grammars and code, as they stand."""
    lines = arguments[-1]
    shown, text = [], ""  # the last line that is not empty
    for line in lines:
        if line.startswith("    ") and text and shown[-1] == "" and text[:4] != "    " and text[-2:] != "::":
            shown += ["::", ""]
        shown.append(line)
        text = line or text
    lines[:] = shown


def setup(app):
    app.connect("autodoc-process-docstring", show_literally)
