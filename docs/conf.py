"""The site: the notebooks as they were run, and the notes of this folder.  `make docs` builds it into docs/_site/html.

Nothing on it is fetched from elsewhere: formulas become MathML when the site is built, widgets are shown by the
pictures that stand in for them.  A module named in a text leads to its page of pdoc, which `make docs` puts into api/.
"""

import os
import posixpath
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.math import get_node_equation_number

ROOT = Path(__file__).parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"

project = "minirft"
extensions = ["myst_nb"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "notebooks/*.ipynb"]
exclude_patterns = [".*", "minirft", "runs", "results", "tests", "docs/_site"]
html_theme = "sphinx_book_theme"
html_title = "minirft"
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # search is in the sidebar
    "footer_content_items": [],
    "use_download_button": False,
}
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
myst_enable_extensions = ["dollarmath", "amsmath"]
nb_execution_mode = "off"  # the outputs are those that were committed, and tested
nb_merge_streams = True
nb_code_prompt_show = "Show the solution"  # the only cells that are folded
nb_code_prompt_hide = "Hide the solution"
nb_mime_priority_overrides = [("html", WIDGET, None)]  # no kernel here: the picture beside the widget is shown
nb_ipywidgets_js: dict[str, dict[str, str]] = {}


class ModuleLinks(SphinxPostTransform):
    """`minirft/loss.py` in a text becomes a link to the page of that module."""

    default_priority = 400

    def run(self, **kwargs: object) -> None:
        """Wrap every literal that is the path of a module."""
        here = posixpath.dirname(self.env.docname)
        for literal in list(self.document.findall(nodes.literal)):
            path = literal.astext()
            if path.startswith("minirft/") and path.endswith(".py") and (ROOT / path).is_file():
                page = "api/" + path.removesuffix(".py").removesuffix("/__init__") + ".html"
                link = nodes.reference("", "", internal=True, refuri=posixpath.relpath(page, here))
                literal.replace_self(link)
                link += literal


def inline_math(translator: nodes.NodeVisitor, node: nodes.math) -> None:
    """A formula in a line of text."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def display_math(translator: nodes.NodeVisitor, node: nodes.math_block) -> None:
    """A formula on a line of its own, with its number where it has one."""
    number = get_node_equation_number(translator, node) if node.get("number") else ""
    label = f'<span class="eqno">({number})</span>' if number else ""
    translator.body.append(f'<div class="math">{label}{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def open_at_the_index(app: Sphinx, exception: Exception | None) -> None:
    """The folder's own index.html leads to the first page."""
    if exception is None:
        page = f"{root_doc}.html"
        text = f'<!doctype html><meta http-equiv="refresh" content="0; url={page}"><a href="{page}">{project}</a>\n'
        Path(os.fspath(app.outdir), "index.html").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.add_post_transform(ModuleLinks)
    app.connect("build-finished", open_at_the_index)
