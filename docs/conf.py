"""The site that `make docs` builds: the guides of this folder, and the API from its docstrings."""

from __future__ import annotations

import shutil
from pathlib import Path

from faststeer.utils.version import VERSION

HERE = Path(__file__).parent
# Sphinx reads only what is below this folder.
shutil.copytree(HERE.parent / "examples" / "notebooks", HERE / "notebooks", dirs_exist_ok=True)

project = "faststeer"
author = "the faststeer authors"
release = version = VERSION

extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
]
exclude_patterns = ["results"]  # its figures are shown on results.md

# Links to headings are as on GitHub, and are checked; the notebooks are executed by the tests.
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]
nb_execution_mode = "off"

# `name` in a docstring is a link where the site has that name, else code.
default_role = "py:obj"
# Other packages' types are not on the site; a first line that napoleon takes for a type warns.
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:class", r"(faststeer|torch|nn|dist|collections\.abc|os|pathlib|rich)\..+"),
    ("py:class", r"\w+"),
    # A signature with a default of `<factory>` is split at the commas inside brackets too.
    ("py:class", r"tuple\[~\S+"),
]
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_title = f"faststeer {VERSION}"
html_show_sphinx = False
html_copy_source = False
html_show_copyright = False


def is_tuple_field(app, what, name, member, skip, options) -> bool | None:
    """Leave out the fields of named tuples, whose docstrings only number them."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field") else None


def setup(app) -> None:
    """Connect what this file adds to Sphinx."""
    app.connect("autodoc-skip-member", is_tuple_field)
