"""The paper's figures over a grid of runs, as SVG: retained ranks (3), cross-method transfer (4), compression (5)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from wbrag.experiments.grid import Point, grouped
from wbrag.experiments.paper import called
from wbrag.report.plots import BLUE, GREY, INK, ORANGE, compression_guides, empty_panels, scattered, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Value = TypeVar("Value")
#: Panels side by side; a page is two of them wide in print and three on a screen.
ACROSS = 3
#: How bright red, green and blue are to the eye (ITU-R BT.601).
LUMINANCE = (0.299, 0.587, 0.114)
SERIES = (BLUE, ORANGE, "#009e73", "#cc79a7", GREY)


def ranks_figure(points: Sequence[Point]) -> str:
    """Figure 3: for each benchmark, the share of retained documents at each retrieval rank, one line a generator, the
    mean over methods.
    """
    panels = _panels(points, _shares)
    deepest = max(len(shares) for panel in panels.values() for shares in panel.values())

    def draw(axes: Axes, lines: Iterable[tuple[str, list[float]]]) -> None:
        for colour, shares in lines:
            ranks, heights = range(1, len(shares) + 1), [100 * share for share in shares]
            axes.plot(ranks, heights, color=colour, marker="o", markersize=4)
        axes.set_ylim(0, 100)
        axes.set_xlim(0.7, deepest + 0.3)
        axes.set_xticks(range(1, deepest + 1))

    return _figure("ranks", panels, draw, 2.2, ("retrieval rank", "% of retained"))


def _shares(runs: Sequence[Point]) -> list[float]:
    found = [list(run.metrics["construction"]["retained_by_rank"].values()) for run in runs if run.tokens]
    deepest = max(map(len, found), default=0)
    return [sum(shares[i] for shares in found if i < len(shares)) / len(found) for i in range(deepest)]


def tokens_figure(points: Sequence[Point]) -> str:
    """Figure 5: for each benchmark, tokens of the sources (across) against tokens of the unit, a colour a generator."""
    panels = _panels(points, lambda runs: [pair for run in runs for pair in run.tokens])
    sources, units = zip(*(pair for point in points for pair in point.tokens), strict=True)
    right, top = 1.05 * max(sources), 1.1 * max(units)

    def draw(axes: Axes, dots: Iterable[tuple[str, list[tuple[int, int]]]]) -> None:
        compression_guides(axes, right, top, linewidth=0.7, fontsize=7.5, gap=(2, 1))
        for colour, pairs in dots:
            scattered(axes, pairs, len(sources), s=10, color=colour)

    return _figure("tokens", panels, draw, 2.5, ("tokens of the sources", "tokens of the unit"))


def _panels(points: Sequence[Point], value: Callable[[list[Point]], Value]) -> dict[str, dict[str, Value]]:
    """The value of the runs of each benchmark and generator, over all methods."""
    panels: dict[str, dict[str, Value]] = defaultdict(dict)
    for (benchmark, backbone), runs in grouped(points, "benchmark", "backbone"):
        panels[called(benchmark)][called(backbone)] = value(runs)
    return panels


def _figure(
    name: str,
    panels: Mapping[str, Mapping[str, Value]],
    draw: Callable[[Axes, Iterable[tuple[str, Value]]], None],
    height: float,
    labels: tuple[str, str],
) -> str:
    """One panel a benchmark, what `draw` makes of it in the colours of its generators; labels on the outer panels."""
    from matplotlib.lines import Line2D

    names = dict.fromkeys(name for panel in panels.values() for name in panel)
    colours = {name: SERIES[i % len(SERIES)] for i, name in enumerate(names)}
    figure, every = empty_panels(len(panels), ACROSS, width=9.0, height=height)
    for place, (axes, (title, panel)) in enumerate(zip(every, panels.items(), strict=True)):
        draw(axes, ((colours[name], value) for name, value in panel.items()))
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
