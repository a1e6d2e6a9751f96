"""Judge rankings: how many of a week's purchases are among the ten that were proposed.

Relevant are the products of the catalogue that a household bought within the seven days
after the evening. A row with none can't be ranked well or badly, and does not count.

- recall@10: the share of the relevant that is among the ten. Whoever buys twenty
  products can't have more than a half.
- NDCG@10: the same hits, worth less further down, as a share of what the best ten
  would get.

The average is over rows, so each household counts alike on each evening.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from batch_assets.defs.baskets.rows import marked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl
    import torch

    from batch_assets.defs.baskets.rows import Rows

    # From rows to scores, (rows, products): the higher, the sooner proposed.
    Ranker = Callable[[Rows], np.ndarray]

TOP = 10
CHUNK = 512
# A purchase of so many days ago counts half: the best of 14 to 180 on the evenings that
# choose settings.
HALF_LIFE = 90.0


def judge(rankers: Mapping[str, Ranker], rows: Rows, size: int) -> pl.DataFrame:
    """Return for each ranker and row recall and NDCG, of everything and without this week's.

    `recall_new` and `ndcg_new` are with the products that the household has bought on the
    evening or in the six days before it taken out of what is proposed. They stay
    relevant: what is not proposed can't be hit, and that is the price of taking it out.
    """
    import polars as pl

    rows = rows.take(np.flatnonzero(rows.bought_next.lengths > 0))
    frames = []
    for start in range(0, len(rows), CHUNK):
        part = rows.take(np.arange(start, min(start + CHUNK, len(rows))))
        relevant = marked(part.bought_next, size)
        taken = marked(part.bought_this_week, size)
        for name, ranker in rankers.items():
            scores = ranker(part)
            recall, ndcg = measured(scores, relevant)
            recall_new, ndcg_new = measured(np.where(taken, -np.inf, scores), relevant)
            values = {
                "evening": part.evening,
                "household_id": part.household_id,
                "recall": recall,
                "ndcg": ndcg,
                "recall_new": recall_new,
                "ndcg_new": ndcg_new,
            }
            frames.append(pl.DataFrame(values).select(pl.lit(name).alias("by"), "*"))
    return pl.concat(frames)


def measured(scores: np.ndarray, relevant: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return recall@10 and NDCG@10 of each row, float64 (rows,).

    Args:
        scores: (rows, products).
        relevant: bool (rows, products), one or more in each row.
    """
    top = np.argpartition(-scores, TOP, axis=1)[:, :TOP]
    order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable")
    top = np.take_along_axis(top, order, 1)
    hits = np.take_along_axis(relevant, top, 1)
    wanted = relevant.sum(axis=1)
    worth = 1 / np.log2(np.arange(TOP) + 2)
    best = np.cumsum(worth)[np.minimum(wanted, TOP) - 1]
    return hits.sum(axis=1) / wanted, hits @ worth / best


def by_model(module: torch.nn.Module) -> Ranker:
    """Rank as a model scores."""
    import torch

    def scores(rows: Rows) -> np.ndarray:
        with torch.inference_mode():
            answer: np.ndarray = module(*rows.inputs()).numpy()
        return answer

    return scores


def by_popularity(popularity: np.ndarray) -> Ranker:
    """Rank for everybody alike, by how much was bought: float64 (products,)."""

    def scores(rows: Rows) -> np.ndarray:
        return np.broadcast_to(popularity, (len(rows), len(popularity)))

    return scores


def by_own_purchases(popularity: np.ndarray, half_life: float = np.inf) -> Ranker:
    """Rank by how often the household bought it, then by popularity.

    With a half-life in days, a purchase counts the less the longer ago it was.
    """
    fill = popularity / (2 * popularity.max())

    def scores(rows: Rows) -> np.ndarray:
        own = np.zeros((len(rows), len(popularity)))
        row = np.repeat(np.arange(len(rows)), rows.products.lengths)
        weight = np.exp2(-rows.days_ago.values / half_life)
        np.add.at(own, (row, rows.products.values), weight)
        # Whatever was bought is above whatever was not; popularity settles equals.
        ranked: np.ndarray = np.where(own > 0, 1 + own + 1e-9 * fill, fill)
        return ranked

    return scores


def popularity_of(rows: Rows, size: int) -> np.ndarray:
    """Count the rows that bought each product: float64 (products,)."""
    counts: np.ndarray = np.bincount(rows.bought_next.values, minlength=size)
    return counts.astype(float)
