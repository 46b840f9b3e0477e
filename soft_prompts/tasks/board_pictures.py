"""Boards, walked paths and obedience as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from soft_prompts.data.boards import NO_WAY, Boards, Walk

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4


def draw_routes(boards: Sequence[Boards], walks: Sequence[Walk]) -> np.ndarray:
    """Boards with the routes that were walked on them: start green, goal red, walls dark, route blue.

    Args:
        boards: One board each.
        walks: What was walked on each of them.

    Returns:
        uint8 [height, width, 3].
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    n_rows = max(1, -(-len(boards) // COLUMNS))
    figure = Figure(figsize=(2.4 * COLUMNS, 2.7 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, COLUMNS, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, board, w in zip(axes.flat, boards, walks, strict=False):
        ax.imshow(1 - board.blocked[0], cmap="gray", vmin=-0.3, vmax=1.1)
        width = board.blocked.shape[2]
        y, x = np.divmod(np.array(w.cells), width)
        ax.plot(x, y, color="tab:blue", linewidth=2)
        for cell, color, letter in ((board.start[0], "tab:green", "A"), (board.goal[0], "tab:red", "B")):
            y, x = divmod(cell, width)
            ax.add_patch(Rectangle((x - 0.4, y - 0.4), 0.8, 0.8, color=color))
            ax.text(x, y, letter, ha="center", va="center", color="white", fontweight="bold")
        ax.set_title(_verdict(int(board.optimum[0]), w), fontsize=8)
    return _pixels(figure)


def _verdict(optimum: int, w: Walk) -> str:
    if optimum < 0:
        return "no way: " + ("said so" if w.end == NO_WAY else "not seen")
    said = f"{w.n_moves} moves for {optimum}" if w.arrived else "says no way" if w.end == NO_WAY else "does not arrive"
    return said + (f", {w.bumps} bumps" if w.bumps else "")


def draw_obedience(obtained: dict[str, dict[str, dict]]) -> np.ndarray:
    """Extra moves and bumps obtained (mean and standard deviation) against those asked for.

    Args:
        obtained: "extra" and "bumps" -> what was asked for -> score, with its "spread".

    Returns:
        uint8 [height, width, 3].
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for ax, (what, by_asked) in zip(figure.subplots(1, 2), obtained.items(), strict=True):
        known = [(name, s) for name, s in by_asked.items() if s["value"] is not None]
        place = {name: i for i, name in enumerate(by_asked)}
        ax.errorbar(
            [place[name] for name, _ in known], [s["value"] for _, s in known], [s["spread"] for _, s in known], fmt="o"
        )
        asked = [int(name.split()[0 if what == "extra" else 2]) for name in by_asked]
        ax.plot(range(len(asked)), asked, "_", color="gray", markersize=14, label="asked for")
        ax.set_xticks(range(len(by_asked)), list(by_asked), rotation=90, fontsize=7)
        ax.set_title(f"{what} obtained: mean and standard deviation", fontsize=9)
        ax.legend(frameon=False, fontsize=8)
    return _pixels(figure)


def _pixels(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
