"""The figures of the reports as SVG text: gains; retained ranks, cross-method transfer and compression (paper, Figures
3, 4 and 5).

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart. Axes of amounts start at 0.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from wbrag.report.statistics import Floats

P = ParamSpec("P")
Record = Mapping[str, Any]
Value = TypeVar("Value")
#: By benchmark and generator.
Panels = Mapping[str, Mapping[str, Value]]
#: A panel's values, each with the colour of its generator.
Coloured = Sequence[tuple[str, Value]]

GREY, BLUE, ORANGE = "#8c9196", "#0072b2", "#d55e00"
INK, QUIET, RULE = "#1f2328", "#59636e", "#c8ced5"
BARS = (("closed_book", "closed book", GREY), ("base", "base", BLUE), ("writeback", "+ write-back", ORANGE))
#: Beyond so many points the scatter is embedded as one image, which keeps the file small.
VECTOR_POINTS = 2000
#: Panels side by side; a page is two of them wide in print and three on a screen.
ACROSS = 3
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


def _svg(draw: Callable[P, Figure]) -> Callable[P, str]:
    """The figure that `draw` draws as an `<svg>` element; its ids begin with the name of `draw`, so that several can
    share a page.
    """

    @wraps(draw)
    def told(*args: P.args, **kwargs: P.kwargs) -> str:
        import matplotlib as mpl

        buffer, unnamed = io.StringIO(), dict.fromkeys(("Creator", "Date", "Format", "Type"))
        with mpl.rc_context(STYLE | {"svg.hashsalt": draw.__name__}):  # and no date: same run, same file
            draw(*args, **kwargs).savefig(buffer, format="svg", transparent=True, metadata=unnamed)
        text = buffer.getvalue()
        return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{draw.__name__}-", text[text.index("<svg") :])

    return told


@_svg
def gain_figure(name: str, record: Record, gains: Mapping[str, Record]) -> Figure:
    """Left, the scores of `record` (its metric called `name`) in percent; right, each gain with its 95% interval.

    The whisker on the write-back bar is the interval of the gain, drawn from the base score.
    """
    titles = f"{name}, % of {record['n']:,} test questions", "gain in points, 95% interval"
    figure, (bars, forest) = _empty(titles, 2, 9.0, 0.62 + 0.4 * max(4, len(gains)), (1.15, 1))
    scores = [100 * record[key] for key, _, _ in BARS]
    low, high = (scores[1] + 100 * record[key] for key in ("ci_low", "ci_high"))
    ends = [*scores[:2], max(scores[2], high)]
    bars.barh(range(3), scores, color=[colour for _, _, colour in BARS], height=0.62)
    bars.plot([low, high], [2, 2], color=INK, linewidth=1.4, solid_capstyle="butt", marker="|", markersize=7)
    _tell(bars, ends, "{:.1f}", scores)
    bars.set_yticks(range(3), [label for _, label, _ in BARS])
    bars.set_xlim(0, min(114.0, max(10.0, 1.18 * max(ends))))
    bars.invert_yaxis()
    rows = range(len(gains))
    lows, means, highs = ([100 * one[key] for one in gains.values()] for key in ("ci_low", "gain", "ci_high"))
    left, right = min(0.0, *lows), max(0.0, *highs)
    forest.axvline(0, color=INK, linewidth=0.9)
    forest.hlines(rows, lows, highs, colors=ORANGE, linewidth=2)
    forest.plot(means, rows, "o", color=ORANGE, markersize=5.5)
    _tell(forest, [max(end, 0) for end in highs], "{:+.1f}", means)
    forest.set_yticks(rows, list(gains))
    forest.set_xlim(left - 0.06 * max(right - left, 1.0), right + 0.24 * max(right - left, 1.0))
    forest.set_ylim(len(gains) - 0.5, -0.5)
    return figure


def _tell(axes: Axes, ends: Sequence[float], form: str, values: Sequence[float]) -> None:
    """Each row's value to the right of where the row ends."""
    for row, (end, value) in enumerate(zip(ends, values, strict=True)):
        axes.annotate(form.format(value), (end, row), (6, 0), textcoords="offset points", va="center")


@_svg
def ranks_figure(panels: Panels[Sequence[float]]) -> Figure:
    """Figure 3: for each benchmark, the share of retained documents at each retrieval rank, one line a generator, in
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


@_svg
def tokens_figure(panels: Panels[Floats]) -> Figure:
    """Figure 5: for each benchmark, tokens of the sources (across) against tokens of the unit, (n, 2): a point a unit,
    a colour a generator, with guides of equal compression.
    """
    import numpy as np

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
            axes.scatter(across, up, s=12, color=colour, alpha=0.35, linewidths=0, zorder=3, rasterized=rasterized)
        axes.set(xlim=(0, right), ylim=(0, top))

    return _by_generator(panels, draw, ("tokens of the sources", "tokens of the unit"))


def _by_generator(
    panels: Panels[Value], draw: Callable[[Axes, Coloured[Value]], None], labels: tuple[str, str]
) -> Figure:
    """One panel a benchmark, what `draw` makes of it in the colours of its generators."""
    from matplotlib.lines import Line2D

    names = dict.fromkeys(name for panel in panels.values() for name in panel)
    colours = {name: SERIES[i % len(SERIES)] for i, name in enumerate(names)}
    across = min(ACROSS, len(panels))
    figure, every = _empty(list(panels), across, max(4.4, 3.0 * across), 2.5)
    for axes, panel in zip(every, panels.values(), strict=True):
        draw(axes, [(colours[name], value) for name, value in panel.items()])
    figure.supxlabel(labels[0])
    figure.supylabel(labels[1])
    if len(names) > 1:
        marks = [Line2D([], [], color=colours[name], marker="o", markersize=5, linestyle="") for name in names]
        style: dict[str, Any] = {"ncols": len(names), "frameon": False, "handletextpad": 0.1}
        figure.legend(marks, list(names), loc="outside upper right", **style)
    return figure


@_svg
def transfer_figure(panels: Mapping[str, tuple[list[str], list[list[float | None]]]]) -> Figure:
    """Figure 4: who answers (rows) with whose write-back corpus (columns): points above the answerer's own corpus.

    Each panel holds the methods' names and the differences in points; None where a pair was not measured.
    """
    import numpy as np

    figure, every = _empty([f"{title}: answered by" for title in panels], min(2, len(panels)), 9.0, 3.4)
    matrices = [np.array(matrix, dtype=np.float64) for _, matrix in panels.values()]
    largest = max(1.0, *(float(np.nanmax(abs(known))) for known in matrices))
    for axes, (names, _), known in zip(every, panels.values(), matrices, strict=True):
        image = axes.imshow(known, cmap="PuOr_r", vmin=-largest, vmax=largest, aspect="auto")
        colours = image.to_rgba(known)
        for (i, j), value in np.ndenumerate(known):
            text = "-" if np.isnan(value) else "own" if i == j else f"{value:+.1f}"
            dark = not np.isnan(value) and np.dot(colours[i, j, :3], LUMINANCE) < 0.5
            axes.annotate(text, (j, i), ha="center", va="center", color="white" if dark else INK)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("write-back corpus made by")
        axes.spines[:].set_visible(False)
    return figure


def _empty(
    titles: Sequence[str], across: int, width: float, height: float, widths: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """A figure of empty panels with these titles, at most `across` in a row of `height` inches."""
    from matplotlib.figure import Figure

    rows = -(-len(titles) // across)
    figure = Figure(figsize=(width, rows * height), layout="constrained")
    every = list(figure.subplots(rows, across, squeeze=False, width_ratios=widths).flat)
    for axes in every[len(titles) :]:
        axes.set_visible(False)
    for axes, title in zip(every, titles, strict=False):
        axes.set_title(title)
    return figure, every[: len(titles)]
