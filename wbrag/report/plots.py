"""The figures of the reports as SVG text: gains; retained ranks, cross-method transfer and compression (paper, Figures
3, 4 and 5).

Colours are from Okabe and Ito's palette, which colour-blind readers can tell apart. Axes of amounts start at 0.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def gain_figure(name: str, record: Record, gains: Mapping[str, Record]) -> str:
    """Left, the scores of `record` (its metric called `name`) in percent; right, each gain with its 95% interval.

    The whisker on the write-back bar is the interval of the gain, drawn from the base score.
    """
    figure, (bars, forest) = empty_panels(2, 2, 9.0, 0.62 + 0.4 * max(4, len(gains)), (1.15, 1))
    for row, (key, _, colour) in enumerate(BARS):
        bars.barh(row, 100 * record[key], color=colour, height=0.62)
    base, value = 100 * record["base"], 100 * record["writeback"]
    low, high = base + 100 * record["ci_low"], base + 100 * record["ci_high"]
    bars.plot([low, high], [2, 2], color=INK, linewidth=1.4, solid_capstyle="butt", marker="|", markersize=7)
    for row, (key, _, _) in enumerate(BARS):
        edge = max(high, value) if key == "writeback" else 100 * record[key]
        bars.annotate(f"{100 * record[key]:.1f}", (edge, row), (6, 0), textcoords="offset points", va="center")
    bars.set_yticks(range(3), [label for _, label, _ in BARS])
    bars.set_xlim(0, min(114.0, max(10.0, 1.18 * max(100 * record["closed_book"], base, value, high))))
    bars.set_title(f"{name}, % of {record['n']:,} test questions", loc="left")
    bars.invert_yaxis()
    _forest(forest, gains)
    return svg(figure, "gains")


def rank_figure(shares: Mapping[str, float]) -> str:
    """Share of the retained documents at each retrieval rank, in percent."""
    figure, (axes,) = empty_panels(1, 1, 4.4, 3.0)
    ranks, heights = list(shares), [100 * share for share in shares.values()]
    for rank, height in enumerate(heights):
        axes.bar(rank, height, color=BLUE, width=0.66)
        axes.annotate(f"{height:.0f}", (rank, height), (0, 3), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(ranks)), ranks)
    axes.set_ylim(0, 1.15 * max(heights))
    axes.set_xlabel("retrieval rank")
    axes.set_title("% of retained documents", loc="left", pad=18)
    return svg(figure, "ranks")


def compression_figure(tokens: Sequence[tuple[int, int]]) -> str:
    """Source tokens against distilled tokens, one point a unit, with guides of equal compression."""
    figure, (axes,) = empty_panels(1, 1, 4.4, 3.0)
    scattered(axes, tokens, len(tokens), s=14, color=BLUE, zorder=3)
    right, top = (stretch * max(some) for stretch, some in zip((1.12, 1.25), zip(*tokens, strict=True), strict=True))
    compression_guides(axes, right, top, linewidth=0.8, fontsize=8, gap=(3, 2))
    axes.set_xlabel("tokens of the sources")
    axes.set_title("tokens of the unit", loc="left", pad=18)
    return svg(figure, "compression")


def ranks_figure(panels: Panels[Sequence[float]]) -> str:
    """Figure 3: for each benchmark, the share of retained documents at each retrieval rank, one line a generator."""
    deepest = max(len(shares) for panel in panels.values() for shares in panel.values())

    def draw(axes: Axes, lines: Coloured[Sequence[float]]) -> None:
        for colour, shares in lines:
            heights = [100 * share for share in shares]
            axes.plot(range(1, len(shares) + 1), heights, color=colour, marker="o", markersize=4)
        axes.set_ylim(0, 100)
        axes.set_xlim(0.7, deepest + 0.3)
        axes.set_xticks(range(1, deepest + 1))

    return _panels("ranks", panels, draw, 2.2, ("retrieval rank", "% of retained"))


def tokens_figure(panels: Panels[Sequence[tuple[int, int]]]) -> str:
    """Figure 5: for each benchmark, tokens of the sources (across) against tokens of the unit, a colour a generator."""
    every = (pair for panel in panels.values() for pairs in panel.values() for pair in pairs)
    sources, units = zip(*every, strict=True)

    def draw(axes: Axes, dots: Coloured[Sequence[tuple[int, int]]]) -> None:
        compression_guides(axes, 1.05 * max(sources), 1.1 * max(units), linewidth=0.7, fontsize=7.5, gap=(2, 1))
        for colour, pairs in dots:
            scattered(axes, pairs, len(sources), s=10, color=colour)

    return _panels("tokens", panels, draw, 2.5, ("tokens of the sources", "tokens of the unit"))


def _panels(
    name: str,
    panels: Panels[Value],
    draw: Callable[[Axes, Coloured[Value]], None],
    height: float,
    labels: tuple[str, str],
) -> str:
    """One panel a benchmark, what `draw` makes of it in the colours of its generators; labels on the outer panels."""
    from matplotlib.lines import Line2D

    names = dict.fromkeys(name for panel in panels.values() for name in panel)
    colours = {name: SERIES[i % len(SERIES)] for i, name in enumerate(names)}
    figure, every = empty_panels(len(panels), ACROSS, width=9.0, height=height)
    for place, (axes, (title, panel)) in enumerate(zip(every, panels.items(), strict=True)):
        draw(axes, [(colours[name], value) for name, value in panel.items()])
        axes.set_title(title, loc="left", fontsize=9.5, pad=14)
        axes.set_xlabel(labels[0] if place + ACROSS >= len(every) else "")
        axes.set_ylabel(labels[1] if place % ACROSS == 0 else "")
    if len(names) > 1:
        marks = [Line2D([], [], color=colours[name], marker="o", markersize=5, linestyle="") for name in names]
        style = {"ncols": len(names), "frameon": False, "handletextpad": 0.1}
        figure.legend(marks, list(names), loc="outside upper right", **style)
    return svg(figure, name)


def transfer_figure(panels: Mapping[str, tuple[list[str], list[list[float | None]]]]) -> str:
    """Figure 4: who answers (rows) with whose write-back corpus (columns): points above the answerer's own corpus.

    Each panel holds the methods' names and the differences in points; None where a pair was not measured.
    """
    import numpy as np

    figure, every = empty_panels(len(panels), min(2, len(panels)), width=9.0, height=3.4)
    matrices = [np.array(matrix, dtype=np.float64) for _, matrix in panels.values()]
    largest = max(1.0, *(float(np.nanmax(abs(known))) for known in matrices))
    for axes, (title, (names, _)), known in zip(every, panels.items(), matrices, strict=True):
        image = axes.imshow(known, cmap="PuOr_r", vmin=-largest, vmax=largest, aspect="auto")
        colours = image.to_rgba(known)
        for (i, j), value in np.ndenumerate(known):
            text = "-" if np.isnan(value) else "own" if i == j else f"{value:+.1f}"
            dark = not np.isnan(value) and np.dot(colours[i, j, :3], LUMINANCE) < 0.5
            axes.annotate(text, (j, i), ha="center", va="center", color="white" if dark else INK)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("write-back corpus made by")
        axes.set_title(f"{title}: answered by", loc="left", fontsize=9.5)
        axes.spines[:].set_visible(False)
    return svg(figure, "transfer")


def scattered(axes: Axes, tokens: Sequence[tuple[int, int]], together: int, **style: Any) -> None:  # noqa: ANN401
    """One point for each pair (source tokens, unit tokens); `together`: how many points the figure has."""
    across, up = [source for source, _ in tokens], [unit for _, unit in tokens]
    axes.scatter(across, up, alpha=0.35, linewidths=0, rasterized=together > VECTOR_POINTS, **style)


def compression_guides(
    axes: Axes, right: float, top: float, linewidth: float, fontsize: float, gap: tuple[int, int]
) -> None:
    """Lines of equal compression up to the limits of the axes, each with its ratio so many points beside it."""
    for ratio in (1, 2, 5, 10):
        end, on_top = min(right, top * ratio), top * ratio < right
        axes.plot([0, end], [0, end / ratio], color=GREY, linewidth=linewidth, linestyle=(0, (4, 3)))
        at, (ha, va) = ((0, gap[1]), ("center", "bottom")) if on_top else ((gap[0], 0), ("left", "center"))
        style: dict[str, Any] = {"ha": ha, "va": va, "color": QUIET, "fontsize": fontsize}
        axes.annotate(f"{ratio}:1", (end, end / ratio), at, textcoords="offset points", **style)
    axes.set_xlim(0, right)
    axes.set_ylim(0, top)


def _forest(axes: Axes, gains: Mapping[str, Record]) -> None:
    axes.axvline(0, color=INK, linewidth=0.9)
    for row, record in enumerate(gains.values()):
        low, gain, high = (100 * record[key] for key in ("ci_low", "gain", "ci_high"))
        axes.plot([low, high], [row, row], color=ORANGE, linewidth=2, solid_capstyle="butt")
        axes.plot(gain, row, color=ORANGE, marker="o", markersize=5.5)
        axes.annotate(f"{gain:+.1f}", (max(high, 0), row), (6, 0), textcoords="offset points", va="center")
    lows, highs = ([100 * record[key] for record in gains.values()] for key in ("ci_low", "ci_high"))
    left, right = min(0.0, *lows), max(0.0, *highs)
    span = max(right - left, 1.0)
    axes.set_xlim(left - 0.06 * span, right + 0.24 * span)
    axes.set_yticks(range(len(gains)), list(gains))
    axes.set_ylim(len(gains) - 0.5, -0.5)
    axes.set_title("gain in points, 95% interval", loc="left")


def empty_panels(
    panels: int, across: int, width: float, height: float, widths: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """An empty figure of `panels`, at most `across` in a row of `height` inches, in the style of the report."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = -(-panels // across)
    with mpl.rc_context():
        mpl.rc("font", size=9.5, family="sans-serif")
        mpl.rc("axes", titlesize=9.5, titlepad=10, labelcolor=INK, edgecolor=RULE)
        for part in ("text", "xtick", "ytick"):
            mpl.rc(part, color=INK)
        figure = Figure(figsize=(width, rows * height), layout="constrained")
        grid = figure.subplots(rows, across, squeeze=False, width_ratios=widths)
    every = list(grid.flat)
    for axes in every[panels:]:
        axes.set_visible(False)
    for axes in every[:panels]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=0)
    return figure, every[:panels]


def svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element; its ids begin with `name`, so that several can share a page."""
    import matplotlib as mpl

    # Text stays text: the page's font renders it, it can be searched and read aloud. No date: same run, same file.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
