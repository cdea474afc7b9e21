"""The documentation site: `make docs` builds it in out/site.

The folder that Sphinx reads is the repository itself, so that the README, the pages in docs/, the model cards
and the notebooks are pages as they stand; their links to each other hold here as they do on GitHub.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import robustmed_monai

project = "robustmed_monai"
author = "The robustmed_monai contributors"
project_copyright = author
version = release = robustmed_monai.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "*.md",
    "docs/**.md",
    "docs/**.rst",
    "docs/notebooks/*.ipynb",
    "bundles/*/docs/README.md",
    "benchmarks/README.md",
    "data_prep/README.md",
]
# Folders that Sphinx need not walk.
exclude_patterns = [
    ".*",
    "**/.*",
    "**/__pycache__",
    "out",
    "build",
    "dist",
    "robustmed_monai",
    "tests",
    "docs/gallery",
]

html_theme = "furo"
html_title = f"{project} {version}"
# The root page is docs/index.html; this one leads there.
html_extra_path = ["index.html"]

myst_heading_anchors = 3
# `--key` stays two hyphens.
smartquotes = False

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# The server lives in an environment of its own.
autodoc_mock_imports = ["monailabel", "fastapi", "starlette"]
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# What stays as it is in a docstring: literals, and the lines of a doctest.
_VERBATIM = re.compile(r"(``.+?``|^\s*(?:>>>|\.\.\.)[^\n]*$)", re.DOTALL | re.MULTILINE)


class Modules(SphinxDirective):
    """``.. modules:: package`` documents each public module of a package under a heading of its own."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Parse what one would write by hand: heading and ``automodule`` of each module."""
        package = importlib.import_module(self.arguments[0])
        found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        lines: list[str] = []
        for module in found:
            name = module.name
            if module.ispkg or any(part.startswith("_") for part in name.split(".")):
                continue
            title = name.removeprefix(f"{package.__name__}.")
            lines += [title, "-" * len(title), "", f".. automodule:: {name}", ""]
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


class NotebookParser(MystParser):
    """Shows a notebook as a page: its text, its code, its last picture."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Parse the Markdown that a notebook stands for."""
        super().parse(notebook_as_markdown(json.loads(inputstring)), document)


def notebook_as_markdown(notebook: dict[str, Any]) -> str:
    """Return text cells as they are, code cells fenced, pictures as data."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        pictures = [output["data"]["image/png"] for output in cell.get("outputs", [])]
        parts += [f"![What the last cell draws](data:image/png;base64,{picture})" for picture in pictures]
    return "\n\n".join(parts) + "\n"


def escape_mathematics(_: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings say (B, C, *spatial), |x - y|, image_*; reStructuredText has other uses for the signs."""
    parts = _VERBATIM.split("\n".join(lines))
    parts[::2] = [re.sub(r"\*(?=\S)|\||(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def skip_fields(_: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool:
    """Leave out what Python itself says of the fields of a named tuple."""
    return skip or str(getattr(obj, "__doc__", "")).startswith("Alias for field number")


def setup(app: Sphinx) -> None:
    """Make directive, parser and handlers known."""
    # Before napoleon, whose own marks are to stay.
    app.connect("autodoc-process-docstring", escape_mathematics, priority=400)
    app.connect("autodoc-skip-member", skip_fields)
    app.add_directive("modules", Modules)
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
