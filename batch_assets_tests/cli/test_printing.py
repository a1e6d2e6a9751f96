"""What is printed as JSON can be read by every parser of JSON."""

import json
import math
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from batch_assets.cli.printing import print_json


@dataclass
class Row:
    key: Any
    dep_delay: float
    took: timedelta


def test_a_row_with_odd_values_is_strict_json(capsys):
    print_json(
        [Row("zoë \x00", math.nan, timedelta(seconds=1.5)), {"day": date(2026, 1, 5)}]
    )
    print_json({"blob": b"\xff", "least": -math.inf, "key": 2**64 - 1})
    out = capsys.readouterr().out

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    rows, tail = out.split("]\n", 1)
    assert json.loads(rows + "]", parse_constant=refuse) == [
        {"key": "zoë \x00", "dep_delay": "NaN", "took": 1.5},
        {"day": "2026-01-05"},
    ]
    assert json.loads(tail, parse_constant=refuse) == {
        "blob": "_w==",
        "least": "-Infinity",
        "key": 2**64 - 1,
    }
