"""Plots of a comparison as SVG to put into a page."""

from __future__ import annotations

import importlib.util
import io
from typing import TYPE_CHECKING, Any, Final

from edgellm_core.report.errors import MissingMatplotlibError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgellm_core.report.comparison import Comparison, PrecisionResult

COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#f0e442")
"""Colors that color-blind people can tell apart (Okabe and Ito 2008)."""

BARS: Final = (
    ("bytes", "on disk, MiB", 2**-20),
    ("perplexity", "perplexity", 1.0),
    ("kl", "KL divergence, nats", 1.0),
    ("top1_agreement", "top-1 agreement, %", 100.0),
    ("build_peak_mib", "peak memory of the build, MiB", 1.0),
    ("build_seconds", "seconds of the build", 1.0),
)
"""Field of a result, its label, and the factor from its unit to the label's."""


def require_matplotlib() -> None:
    """Raise ``MissingMatplotlibError`` where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingMatplotlibError


def bar_plots(comparison: Comparison) -> str:
    """Return one SVG with a bar chart for each number that was measured."""
    results = [result for result in comparison.results if result.error is None]
    shown = [bar for bar in BARS if any(getattr(result, bar[0]) is not None for result in results)]
    if not shown:
        return ""
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = _figure(4 * columns, 0.9 * rows + 0.32 * rows * len(results))
    for index, (name, label, factor) in enumerate(shown, start=1):
        axes = figure.add_subplot(rows, columns, index)
        _draw_bars(axes, results, name, factor)
        axes.set_title(label, fontsize=10)
        if name == "perplexity" and comparison.original_perplexity is not None:
            axes.axvline(comparison.original_perplexity, color="#555", linewidth=1, linestyle="--")
    return _svg(figure, "bars")


def layer_plot(comparison: Comparison) -> str:
    """Return an SVG with the error of the hidden states after each decoder layer."""
    results = [result for result in comparison.results if result.layer_errors]
    if not results:
        return ""
    figure = _figure(9, 3.6)
    axes = figure.add_subplot(1, 1, 1)
    for index, result in enumerate(results):
        layers = range(-1, len(result.layer_errors) - 1)
        errors = [error or float("nan") for error in result.layer_errors]  # an equal state has no place on a log scale
        axes.plot(layers, errors, label=result.precision, color=COLORS[index % len(COLORS)])
    axes.set_xlabel("after decoder layer (-1: embedding)")
    axes.set_ylabel("relative error of the hidden state")
    if any(error > 0 for result in results for error in result.layer_errors):
        axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    return _svg(figure, "layers")


def _draw_bars(axes: Any, results: Sequence[PrecisionResult], name: str, factor: float) -> None:
    values = [getattr(result, name) for result in results]
    heights = [0.0 if value is None else value * factor for value in values]
    colors = [COLORS[index % len(COLORS)] for index in range(len(results))]
    bars = axes.barh([result.precision for result in results], heights, color=colors)
    axes.bar_label(bars, ["" if value is None else f"{value * factor:.4g}" for value in values], padding=2, fontsize=8)
    axes.margins(x=0.25)
    axes.invert_yaxis()
    axes.tick_params(labelsize=8)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Any, name: str) -> str:
    """Return a figure as an SVG element, the same for the same numbers; ids differ from those of other figures."""
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
