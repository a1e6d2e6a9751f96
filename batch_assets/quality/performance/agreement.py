"""How alike two releases are on the rows that both have scored. It judges neither."""

from collections.abc import Iterator

import numpy as np
import polars as pl
import pyarrow as pa

from batch_assets.lake.parts import read_columns
from batch_assets.lake.tables import Lake
from batch_assets.models.comparisons import Agreement
from batch_assets.models.contract import Contract
from batch_assets.models.output_specs import AnyOutput, Label, Ranking, VectorOutput
from batch_assets.models.reference import histogram, psi

# Whole shards are read until so many rows are there: they tell all there is to tell.
ENOUGH_ROWS = 262_144
# Of the day: numbers in the same of them are alike.
TENTHS = 10
BINS = 20
# Vectors that point so nearly the same way are equal.
SAME_DIRECTION = 0.99


def agreement_of(
    champion: Lake, challenger: Lake, day: str, contract: Contract
) -> tuple[Agreement, ...]:
    """Compare the outputs that two releases give of the same keys of a day.

    Args:
        champion: with the predictions of the one.
        challenger: with those of the other.
        day: the day.
        contract: the outputs that both give.
    """
    rows = _both(champion, challenger, day, contract)
    return tuple(
        _agreement(one, rows, rows[one.name], rows[f"{one.name} of the challenger"])
        for one in contract.outputs
    )


def common_outputs(champion: Contract, challenger: Contract) -> Contract:
    """Return the champion's contract with the outputs that both releases give.

    A vector of another size, or a ranking of words and not of numbers, is another output.
    """
    kinds = {one.name: _kind(one, challenger) for one in challenger.outputs}
    both = [
        one for one in champion.outputs if kinds.get(one.name) == _kind(one, champion)
    ]
    return champion.model_copy(update={"outputs": tuple(both)})


def _kind(output: AnyOutput, contract: Contract) -> tuple[type, object]:
    """What is alike in two outputs that can be compared."""
    if isinstance(output, VectorOutput):
        return type(output), output.size
    if isinstance(output, Ranking):
        return type(output), type(contract.vocabularies[output.vocabulary][0])
    return type(output), None


def _both(
    champion: Lake, challenger: Lake, day: str, contract: Contract
) -> pl.DataFrame:
    key, outputs = contract.key.name, [one.name for one in contract.outputs]
    frames: list[pl.DataFrame] = []
    for shard in sorted({part.shard for part in challenger.predictions.parts(day)}):
        said = [
            pl.DataFrame(
                pa.concat_tables(
                    read_columns(part.path, [key, *outputs])
                    for part in lake.predictions.of_shards([shard]).parts(day)
                )
            )
            for lake in (champion, challenger)
        ]
        frames.append(said[0].join(said[1], on=key, suffix=" of the challenger"))
        if sum(map(len, frames)) >= ENOUGH_ROWS:
            break
    return pl.concat(frames)


def _agreement(
    output: AnyOutput, rows: pl.DataFrame, old: pl.Series, new: pl.Series
) -> Agreement:
    count = len(rows)
    if not count:
        return Agreement(output=output.name, rows=0, equal=0.0)
    if isinstance(output, Label):
        return Agreement(output=output.name, rows=count, equal=_mean(old == new))
    if isinstance(output, Ranking):
        first = old.list.first().eq_missing(new.list.first())
        shared = rows.select(
            pl.col(old.name).list.set_intersection(pl.col(new.name)).list.len()
        ).to_series()
        # Of no items, only none are the same: a share of them there is not.
        both_none = (new.list.len() == 0).cast(pl.Float64)
        share = shared / old.list.len()
        overlap = share.zip_with(old.list.len() > 0, both_none)
        return Agreement(
            output=output.name, rows=count, equal=_mean(first), overlap=_mean(overlap)
        )
    if isinstance(output, VectorOutput):
        one, other = (np.array(each.to_list(), dtype=float) for each in (old, new))
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        cosine = (one * other).sum(axis=1) / np.maximum(norms, 1e-300)
        # A vector of zeros has no direction, and is equal to itself alone.
        same = (cosine >= SAME_DIRECTION) | (one == other).all(axis=1)
        equal = float(same.mean())
        return Agreement(output=output.name, rows=count, equal=equal)
    return _of_numbers(output.name, old.to_numpy(), new.to_numpy())


def _of_numbers(name: str, old: np.ndarray, new: np.ndarray) -> Agreement:
    tenths = [
        np.searchsorted(
            np.quantile(one, np.linspace(0, 1, TENTHS + 1)[1:-1]), one, side="right"
        )
        for one in (old, new)
    ]
    correlation = pl.DataFrame({"old": old, "new": new}).select(
        pl.corr("old", "new", method="spearman")
    )
    found = float(correlation.item())
    edges = np.unique(np.quantile(old, np.linspace(0, 1, BINS + 1)[1:-1])).tolist()
    return Agreement(
        output=name,
        rows=len(old),
        equal=float((tenths[0] == tenths[1]).mean()),
        # Of what is the same for every row there is no order.
        rank_correlation=found if np.isfinite(found) else None,
        psi=float(psi(histogram(old, edges), histogram(new, edges))),
    )


def _mean(values: pl.Series) -> float:
    mean = values.cast(pl.Float64).mean()
    return float(mean) if isinstance(mean, float) else 0.0


def described(agreement: tuple[Agreement, ...]) -> Iterator[tuple[str, float]]:
    """Yield each number of an agreement by a name of its own."""
    for one in agreement:
        for name in ("equal", "rank_correlation", "psi", "overlap"):
            value = getattr(one, name)
            if value is not None:
                yield f"{one.output}_{name}", value
