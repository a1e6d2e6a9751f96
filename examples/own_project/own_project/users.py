"""Made-up subscribers. In your project this is a query of your warehouse."""

from datetime import date

import numpy as np
import polars as pl

USERS = 2_000


def users_of(day: str) -> pl.DataFrame:
    """Return every subscriber as of a day: user_id, age, visits in the last week."""
    random = np.random.default_rng(date.fromisoformat(day).toordinal())
    ids = np.arange(1, USERS + 1)
    return pl.DataFrame(
        {
            "user_id": ids,
            "age": (18 + ids * 7 % 60).astype(np.int16),
            "visits": random.poisson(1 + ids % 9).astype(np.float32),
        }
    )
