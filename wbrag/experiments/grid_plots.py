"""The paper's figures over a grid of runs, as SVG: retained ranks (3), cross-method transfer (4), compression (5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wbrag.report.plots import BLUE, GREY, INK, ORANGE, QUIET, VECTOR_POINTS, empty_panels, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Panels side by side; a page is two of them wide in print and three on a screen.
ACROSS = 3
#: How bright red, green and blue are to the eye (ITU-R BT.601).
LUMINANCE = (0.299, 0.587, 0.114)
SERIES = (BLUE, ORANGE, "#009e73", "#cc79a7", GREY)
Named = Mapping[str, Mapping[str, float]]


def ranks_figure(panels: Mapping[str, Named]) -> str:
    """Figure 3: for each benchmark, the share of retained documents at each retrieval rank, one line a generator."""
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    deepest = max(int(rank) for panel in panels.values() for shares in panel.values() for rank in shares)
    figure, axes = empty_panels(len(panels), ACROSS, width=9.0, height=2.2)
    for place, panel in enumerate(panels.values()):
        for name, shares in panel.items():
            colour = SERIES[names.index(name) % len(SERIES)]
            ranks, heights = [int(rank) for rank in shares], [100 * share for share in shares.values()]
            axes[place].plot(ranks, heights, color=colour, marker="o", markersize=4)
        axes[place].set_ylim(0, 100)
        axes[place].set_xlim(0.7, deepest + 0.3)
        axes[place].set_xticks(range(1, deepest + 1))
    _labelled(figure, axes, list(panels), "retrieval rank", "% of retained")
    _legend(figure, names)
    return svg(figure, "ranks")


def transfer_figure(panels: Mapping[str, tuple[list[str], list[list[float | None]]]]) -> str:
    """Figure 4: who answers (rows) with whose write-back corpus (columns): points above the answerer's own corpus.

    Each panel holds the methods' names and the differences in points; None where a pair was not measured.
    """
    import numpy as np

    figure, axes = empty_panels(len(panels), min(2, len(panels)), width=9.0, height=3.4)
    every = [abs(v) for _, matrix in panels.values() for row in matrix for v in row if v is not None]
    largest = max([1.0, *every])
    for place, (title, (names, matrix)) in enumerate(panels.items()):
        known = np.array([[np.nan if v is None else v for v in row] for row in matrix], dtype=np.float64)
        image = axes[place].imshow(known, cmap="PuOr_r", vmin=-largest, vmax=largest, aspect="auto")
        colours = image.to_rgba(known)
        for (i, j), value in np.ndenumerate(known):
            text = "-" if np.isnan(value) else "own" if i == j else f"{value:+.1f}"
            dark = not np.isnan(value) and np.dot(colours[i, j, :3], LUMINANCE) < 0.5
            axes[place].annotate(text, (j, i), ha="center", va="center", color="white" if dark else INK)
        axes[place].set_xticks(range(len(names)), names)
        axes[place].set_yticks(range(len(names)), names)
        axes[place].set_xlabel("write-back corpus made by")
        axes[place].set_title(f"{title}: answered by", loc="left", fontsize=9.5)
        axes[place].spines[:].set_visible(False)
    return svg(figure, "transfer")


def tokens_figure(panels: Mapping[str, Mapping[str, Sequence[tuple[int, int]]]]) -> str:
    """Figure 5: for each benchmark, tokens of the sources (across) against tokens of the unit, a colour a generator."""
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    figure, axes = empty_panels(len(panels), ACROSS, width=9.0, height=2.5)
    points = [pair for panel in panels.values() for pairs in panel.values() for pair in pairs]
    right, top = 1.05 * max(source for source, _ in points), 1.1 * max(unit for _, unit in points)
    for place, panel in enumerate(panels.values()):
        for ratio in (1, 2, 5, 10):
            end = min(right, top * ratio)
            axes[place].plot([0, end], [0, end / ratio], color=GREY, linewidth=0.7, linestyle=(0, (4, 3)))
            high = top * ratio < right
            at: dict[str, Any] = {"ha": "center", "va": "bottom"} if high else {"ha": "left", "va": "center"}
            axes[place].annotate(
                f"{ratio}:1",
                (end, end / ratio),
                (0, 1) if high else (2, 0),
                textcoords="offset points",
                color=QUIET,
                fontsize=7.5,
                **at,
            )
        for name, pairs in panel.items():
            axes[place].scatter(
                [source for source, _ in pairs],
                [unit for _, unit in pairs],
                s=10,
                color=SERIES[names.index(name) % len(SERIES)],
                alpha=0.35,
                linewidths=0,
                rasterized=len(points) > VECTOR_POINTS,
            )
        axes[place].set_xlim(0, right)
        axes[place].set_ylim(0, top)
    _labelled(figure, axes, list(panels), "tokens of the sources", "tokens of the unit")
    _legend(figure, names)
    return svg(figure, "tokens")


def _labelled(figure: Figure, axes: Sequence[Axes], titles: Sequence[str], across: str, up: str) -> None:
    """Titles on every panel, labels only on the outer ones."""
    for place, (panel, title) in enumerate(zip(axes, titles, strict=True)):
        panel.set_title(title, loc="left", fontsize=9.5, pad=14)
        if place % ACROSS == 0:
            panel.set_ylabel(up)
        if place + ACROSS >= len(axes):
            panel.set_xlabel(across)


def _legend(figure: Figure, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    if len(names) > 1:
        colours = [SERIES[i % len(SERIES)] for i in range(len(names))]
        marks = [Line2D([], [], color=colour, marker="o", markersize=5, linestyle="") for colour in colours]
        figure.legend(marks, names, loc="outside upper right", ncols=len(names), frameon=False, handletextpad=0.1)
