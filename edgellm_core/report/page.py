"""The HTML page of a comparison: one file, nothing loaded from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgellm_core.report.plots import bar_plots, layer_plot

if TYPE_CHECKING:
    from edgellm_core.report.comparison import Comparison


def render_page(comparison: Comparison) -> str:
    """Return the page; everything that comes from models and users is escaped."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("compare.html.jinja").render(
        comparison=comparison,
        bars=Markup(bar_plots(comparison)),  # matplotlib escapes the text in it
        layers=Markup(layer_plot(comparison)),
    )
