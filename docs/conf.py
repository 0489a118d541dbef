"""Sphinx configuration; built with warnings as errors."""

from importlib.metadata import version as version_of
from typing import Any

project = "litestar-safe-sse"
author = "The litestar-safe-sse authors"
copyright = author
release = version = version_of("litestar-safe-sse")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build", "_reports"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "literal"  # docstrings put names between single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

OURS = (
    "SSE|Safe|Stream|Close|Cleanup|Invalid|Missing|OutsideRequest|Registry|Sliced|Source|Event|Memory|Reset|Gap|Queue|"
    "Redis(EventLog|GroupQueue|Plugin|PubSub|Queue)|PubSubMessage|ChannelMessage|ChannelsSource|Subscription|Overflow"
)

# The inventories of other projects are not fetched, so that the build needs no network; names of our own must resolve.
nitpick_ignore_regex = [
    (r"py:.*", r"(collections|contextlib|datetime|enum|httpx|litestar|types|typing)\..*"),
    (r"py:.*", rf"(?!{OURS})[A-Z]\w*"),
    (r"py:.*", r"(?:[a-z]+|None|~?_?T)"),
    (r"py:.*", r"(litestar_safe_sse\.[\w.]+\.)?([A-Z][a-z]*)?T"),  # type variables
    (r"py:.*", r"SSE(Route|WebSocket)Handler"),  # what a decorator makes of a function is described in words
    (r"py:.*", r"(litestar_safe_sse\._core\.stream\.)?Stream"),  # its public part is described in words
    (r"py:class", r"litestar_safe_sse\.sources\.[\w.]+Subscription"),  # so are theirs
]

html_theme = "shibuya"
html_title = "litestar-safe-sse"
html_show_sourcelink = False
html_theme_options = {"light_logo": "", "dark_logo": ""}
copybutton_prompt_text = "$ "


def keep_from_napoleon(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Keeps what stands before a colon in an attribute's docstring from being taken for its type."""
    if what == "attribute":
        lines[:0] = ["..", ""]  # an empty comment


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", keep_from_napoleon, priority=400)
