"""The documentation site: `make docs` builds it offline, `make docs ONLINE=1` with links into other projects' docs."""

import sys
from pathlib import Path

import sb3_reptile

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_extensions"))

project = "sb3-reptile"
author = "the authors of sb3-reptile"
version = release = sb3_reptile.__version__

metadata = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
repository = metadata["urls"]["Repository"]

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
    "public_api",
    "repository_links",
    "built_links",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
templates_path = []

# Markdown
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
# Tutorials are committed with their output; tests/docs run them
nb_execution_mode = "off"

# The API, from docstrings
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
# References to this package must resolve; those to others, and to types in signatures, may not
nitpicky = True
nitpick_ignore_regex = [(r"py:class", r".*"), (r"py:.*", r"(?!sb3_reptile).*")]

if tags.has("online"):  # noqa: F821  (Sphinx defines it)
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
        "gymnasium": ("https://gymnasium.farama.org", None),
        "stable_baselines3": ("https://stable-baselines3.readthedocs.io/en/master", None),
        "sb3_contrib": ("https://sb3-contrib.readthedocs.io/en/master", None),
    }

html_theme = "furo"
html_title = f"sb3-reptile {version}"
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
html_theme_options = {"source_repository": repository, "source_branch": "main", "source_directory": "docs/"}
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
