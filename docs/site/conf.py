"""The docs site: README, docs/ and the docstrings, in one place that works offline.

pip install -e '.[docs]'
sphinx-build -c docs/site . build/site

The repository's root is the source directory, so that a relative link leads to the same
page here and on GitHub.
"""

import pathlib
import sys

SITE = pathlib.Path(__file__).parent
ROOT = SITE.parents[1]
sys.path[:0] = [str(ROOT), str(SITE)]

import jax  # noqa: E402

import kdjax  # noqa: E402

# Its public name, and not that of the private module where it is defined.
jax.Array.__name__ = jax.Array.__qualname__ = "Array"

project = "kdjax"
copyright = "the authors of kdjax; Apache-2.0"
version = release = kdjax.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "contents",
    "docstrings",
    "mathml",
    "reference",
]

root_doc = "README"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "launch/README.md",
    "docs/**.md",
    "docs/api/*.rst",
]
# Large or not ours; without these lines they are searched for pages.
exclude_patterns = ["**/.*", ".*", "build", "dist", "kdjax", "runs", "tests"]

# As GitHub shows them.
myst_enable_extensions = ["alert", "html_image", "strikethrough", "tasklist"]
myst_heading_anchors = 6
# Neither keeps a page from being read: a heading two levels below the one before, and
# code that is not quite of its block's language.
suppress_warnings = ["myst.header", "myst.strikethrough", "misc.highlighting_failure"]

# What stands in backticks is code, and a link where it names something public.
default_role = "py:obj"
add_module_names = False
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 72
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False
smartquotes = False  # "--" begins a flag, and quotes in the text are those of code
python_display_short_literal_types = True

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "kdjax"
html_copy_source = False
html_domain_indices = False  # no page leads to it
html_show_sphinx = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]
# A site starts at index.html; README.md keeps its name, so that links to it work.
templates_path = ["templates"]
html_additional_pages = {"index": "first.html"}
