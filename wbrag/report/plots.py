"""The figures of the reports as SVG text: scores, gains; retained ranks, cross-method transfer and compression (paper,
Figures 3, 4 and 5).

Each is one panel and no wider than a phone can show with its text readable; a page sets them side by side. Colours are
from Okabe and Ito's palette, which colour-blind readers can tell apart. Axes of amounts start at 0.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from wbrag.report.page import slug
from wbrag.report.statistics import Floats
from wbrag.report.tables import points, too_few

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")
Record = Mapping[str, Any]
Value = TypeVar("Value")
#: By benchmark and generator.
Panels = Mapping[str, Mapping[str, Value]]
#: A panel's values, each with the colour of its generator.
Coloured = Sequence[tuple[str, Value]]

GREY, BLUE, ORANGE = "#8c9196", "#0072b2", "#d55e00"
#: A dark page gives these in other shades (page.SHADES).
INK, QUIET, RULE, PAPER = "#1f2328", "#59636e", "#c8ced5", "#fefefe"
ON_COLOUR = "#101214"  # on a coloured cell, whatever the page
BARS = (("closed_book", "closed book", GREY), ("base", "base", BLUE), ("writeback", "+ write-back", ORANGE))
#: Beyond so many points the scatter is embedded as one image, which keeps the file small.
VECTOR_POINTS = 2000
#: Inches: the width of a figure of 9.5 point type that is still read on a phone, and the height of a row.
WIDTH, ROW, NARROW_ROW = 4.5, 0.4, 0.24
#: More rows than these stand closer.
ROWS = 8
#: How bright red, green and blue are to the eye (ITU-R BT.601).
LUMINANCE = (0.299, 0.587, 0.114)
SERIES = (BLUE, ORANGE, "#009e73", "#cc79a7", GREY)
STYLE: dict[Any, Any] = {
    **{"font.family": "sans-serif", "font.size": 9.5, "figure.labelsize": 9.5, "axes.titlesize": 9.5},
    **{"axes.titlelocation": "left", "axes.titlepad": 14, "axes.labelcolor": INK, "axes.edgecolor": RULE},
    **{"axes.spines.top": False, "axes.spines.right": False, "xtick.major.size": 0, "ytick.major.size": 0},
    **dict.fromkeys(("text.color", "xtick.color", "ytick.color"), INK),
    "svg.fonttype": "none",  # text stays text: the page's font renders it, it can be searched and read aloud
}


def _svg(draw: Callable[Concatenate[str, P], Figure]) -> Callable[Concatenate[str, P], str]:
    """The figure that `draw` draws, under a title, as an `<svg>` element; its ids begin with the name of `draw` and the
    title, so that several can share a page.
    """

    @wraps(draw)
    def told(title: str, /, *args: P.args, **kwargs: P.kwargs) -> str:
        import matplotlib as mpl

        name = "-".join([draw.__name__.strip("_"), *re.findall(r"\w+", title)])
        buffer, unnamed = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with mpl.rc_context(STYLE | {"svg.hashsalt": name}):  # and no date: same run, same file
            draw(title, *args, **kwargs).savefig(buffer, format="svg", transparent=True, metadata=unnamed)
        text = buffer.getvalue()
        return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text[text.index("<svg") :])

    return told


@_svg
def scores_figure(title: str, record: Record) -> Figure:
    """The scores of `record` in percent. The whisker on the write-back bar is the 95% interval of the gain over
    questions, drawn from the base score; none where they are too few.
    """
    figure, bars = _empty(title, 0.62 + ROW * len(BARS))
    scores = [100 * record[key] for key, _, _ in BARS]
    low, high = (scores[1] + 100 * record[key] for key in ("ci_low", "ci_high"))
    ends = [*scores[:2], scores[2] if too_few(record) else max(scores[2], high)]
    bars.barh(range(3), scores, color=[colour for _, _, colour in BARS], height=0.62)
    if not too_few(record):
        bars.plot([low, high], [2, 2], color=INK, linewidth=1.4, solid_capstyle="butt", marker="|", markersize=7)
    _tell(bars, ends, [f"{score:.1f}" for score in scores])
    bars.set_yticks(range(3), [label for _, label, _ in BARS])
    bars.set_xlim(0, min(114.0, max(10.0, 1.18 * max(ends))))
    bars.invert_yaxis()
    return figure


@_svg
def gain_figure(title: str, gains: Mapping[str, Record], together: str = "") -> Figure:
    """Each gain in points with its 95% interval, a row each: a forest plot. Full dots are gains whose interval leaves
    out 0, the row `together` is a diamond; of too few questions there is no interval.
    Where nothing changed, the axis goes a point to either side.
    """
    rows = range(len(gains))
    figure, forest = _empty(title, 0.62 + (ROW * max(4, len(gains)) if len(gains) <= ROWS else NARROW_ROW * len(gains)))
    ends = [(0.0, 0.0) if too_few(one) else (100 * one["ci_low"], 100 * one["ci_high"]) for one in gains.values()]
    means, told = [100 * one["gain"] for one in gains.values()], [points(one["gain"]) for one in gains.values()]
    left, right = min(0.0, *means, *(low for low, _ in ends)), max(0.0, *means, *(high for _, high in ends))
    left, right = (left, right) if left < right else (-1.0, 1.0)
    forest.axvline(0, color=INK, linewidth=0.9)
    for row, name, (low, high), mean in zip(rows, gains, ends, means, strict=True):
        forest.hlines(row, low, high, colors=ORANGE, linewidth=2)
        full: dict[str, Any] = {} if low > 0 or high < 0 else {"markerfacecolor": PAPER}
        forest.plot(mean, row, "D" if name == together else "o", color=ORANGE, markersize=5.5, **full)
    _tell(forest, [max(mean, high, 0) for mean, (_, high) in zip(means, ends, strict=True)], told)
    forest.set_yticks(rows, list(gains))
    forest.set_xlim(left - 0.06 * max(right - left, 1.0), right + 0.24 * max(right - left, 1.0))
    forest.set_ylim(len(gains) - 0.5, -0.5)
    return figure


def _tell(axes: Axes, ends: Sequence[float], texts: Sequence[str]) -> None:
    """Each row's value to the right of where the row ends."""
    for row, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axes.annotate(text, (end, row), (6, 0), textcoords="offset points", va="center")


def ranks_figures(panels: Panels[Sequence[float]]) -> dict[str, str]:
    """Figure 3, a panel a benchmark: the share of retained documents at each retrieval rank, one line a generator, in
    percent; a line that is alone in its panel has its figures beside it.
    """
    deepest = max(len(shares) for panel in panels.values() for shares in panel.values())

    def draw(axes: Axes, lines: Coloured[Sequence[float]]) -> None:
        for colour, shares in lines:
            heights = [100 * share for share in shares]
            axes.plot(range(1, len(shares) + 1), heights, color=colour, marker="o", markersize=4)
            for rank, height in enumerate(heights if len(lines) == 1 else (), 1):
                axes.annotate(f"{height:.0f}", (rank, height), (0, 5), textcoords="offset points", ha="center")
        axes.set(ylim=(0, 100), xlim=(0.7, deepest + 0.3), xticks=range(1, deepest + 1))

    return _by_generator(panels, draw, ("retrieval rank", "% of retained"))


def tokens_figures(panels: Panels[Floats]) -> dict[str, str]:
    """Figure 5, a panel a benchmark: tokens of the sources (across) against tokens of the unit, (n, 2): a point a unit,
    a colour a generator, with guides of equal compression.
    """
    every = np.concatenate([pairs for panel in panels.values() for pairs in panel.values()])
    right, top = (float(scale * most) for scale, most in zip((1.1, 1.2), every.max(axis=0), strict=True))

    def draw(axes: Axes, dots: Coloured[Floats]) -> None:
        for ratio in (1, 2, 5, 10):
            end, on_top = min(right, top * ratio), top * ratio < right
            axes.plot([0, end], [0, end / ratio], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
            at, (ha, va) = ((0, 2), ("center", "bottom")) if on_top else ((3, 0), ("left", "center"))
            style: dict[str, Any] = {"ha": ha, "va": va, "color": QUIET, "fontsize": 8}
            axes.annotate(f"{ratio}:1", (end, end / ratio), at, textcoords="offset points", **style)
        for colour, pairs in dots:
            across, up = pairs.T
            rasterized = len(every) > VECTOR_POINTS
            axes.scatter(across, up, s=12, color=colour, alpha=0.5, linewidths=0, zorder=3, rasterized=rasterized)
        axes.set(xlim=(0, right), ylim=(0, top))

    return _by_generator(panels, draw, ("tokens of the sources", "tokens of the unit"))


def _by_generator(
    panels: Panels[Value], draw: Callable[[Axes, Coloured[Value]], None], labels: tuple[str, str]
) -> dict[str, str]:
    """A figure for each benchmark, what `draw` makes of it in the colours of its generators."""
    names = dict.fromkeys(name for panel in panels.values() for name in panel)
    colours = {name: SERIES[i % len(SERIES)] for i, name in enumerate(names)}

    def panel_of(title: str, panel: Mapping[str, Value]) -> Figure:
        from matplotlib.lines import Line2D

        figure, axes = _empty(title, 2.8)
        draw(axes, [(colours[name], value) for name, value in panel.items()])
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        if len(names) > 1:
            marks = [Line2D([], [], color=colours[name], marker="o", markersize=5, linestyle="") for name in names]
            style: dict[str, Any] = {"ncols": min(3, len(names)), "frameon": False, "handletextpad": 0.1}
            figure.legend(marks, list(names), loc="outside lower center", **style)
        return figure

    panel_of.__name__ = slug(labels[1])
    return {title: _svg(panel_of)(title, panel) for title, panel in panels.items()}


def transfer_figures(panels: Mapping[str, tuple[list[str], list[list[float | None]]]]) -> dict[str, str]:
    """Figure 4: who answers (rows) with whose write-back corpus (columns): points above the answerer's own corpus.

    Each panel holds the methods' names and the differences in points; None where a pair was not measured.
    """
    matrices = {title: np.array(matrix, dtype=np.float64) for title, (_, matrix) in panels.items()}
    largest = max(1.0, *(float(np.nanmax(abs(known))) for known in matrices.values()))
    return {title: _transfer(title, panels[title][0], known, largest) for title, known in matrices.items()}


@_svg
def _transfer(title: str, names: list[str], known: Floats, largest: float) -> Figure:
    figure, axes = _empty(f"{title}: answered by", 3.4)
    image = axes.imshow(known, cmap="PuOr_r", vmin=-largest, vmax=largest, aspect="auto")
    colours = image.to_rgba(known)
    for (i, j), value in np.ndenumerate(known):
        text = "-" if np.isnan(value) else "own" if i == j else f"{value:+.1f}"
        dark = not np.isnan(value) and np.dot(colours[i, j, :3], LUMINANCE) < 0.5
        ink = INK if np.isnan(value) else "#ffffff" if dark else ON_COLOUR
        axes.annotate(text, (j, i), ha="center", va="center", color=ink)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("write-back corpus made by")
    axes.spines[:].set_visible(False)
    return figure


def _empty(title: str, height: float) -> tuple[Figure, Axes]:
    """A figure of one empty panel, `height` inches high."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes
