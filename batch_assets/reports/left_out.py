"""Which rows were left out and why, with a few of them.

How many broke a rule stands in receipts. Of the rows themselves a few are read, from the
first parts, however many there are.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from batch_assets.lake.delta_table import Table
from batch_assets.lake.parts import open_part, read_batches
from batch_assets.lake.tables import Lake
from batch_assets.quality.rules import RULES
from batch_assets.reports.facts import LeftOut, Reason, SampleRow
from batch_assets.reports.wording import plain, value

TOP, SAMPLES = 5, 3
# So many rows are looked through for samples, and so many dead letters for reasons.
LOOKED_THROUGH, COUNTED = 2_000, 100_000
BATCH_ROWS = 500
# Of a sample, so many columns beside those at fault.
OTHERS = 6
# What the lake adds to a row, and is told elsewhere on the page.
OWN = {RULES, "stage", "reason", "model_name", "model_version"}
_NUMBER = re.compile(r"(?<![\w'.])-?\d+(\.\d+)?(e[+-]?\d+)?(?![\w'])")


def quarantined_of(
    lake: Lake, day: str, rules: Mapping[str, int] | None = None
) -> LeftOut:
    """Return the rules that rows of a day broke; a row may have broken several.

    Args:
        lake: the pipeline's tables.
        day: the day.
        rules: how many rows broke each, where that is known already.
    """
    rows = lake.quarantined_rows.rows_by_day().get(day, 0)
    if not rows:
        return LeftOut()
    counts: Counter[str] = Counter(rules or {})
    if rules is None:
        for part in lake.validated_features.parts(day):
            counts.update(part.receipt.rules)
    top = counts.most_common(TOP)
    names = [rule for rule, _ in top]
    samples = _samples(
        lake.quarantined_rows, day, names, lambda row: row.get(RULES) or ()
    )
    reasons = (Reason(plain(rule), n, samples.get(rule, ())) for rule, n in top)
    return LeftOut(rows, tuple(reasons))


def dead_letters_of(lake: Lake, day: str) -> LeftOut:
    """Return why rows of a day could not be scored; what differs in a number is one."""
    rows = lake.dead_letters.rows_by_day().get(day, 0)
    if not rows:
        return LeftOut()
    counts: Counter[str] = Counter()
    words: dict[str, set[str]] = defaultdict(set)
    looked_at = 0
    for path in lake.dead_letters.paths(day):
        # Two columns of them, and of no more than are needed.
        for batch in read_batches(path, rows=BATCH_ROWS, columns=["reason"]):
            for reason in batch["reason"].to_pylist():
                kind = _NUMBER.sub("…", reason)
                counts[kind] += 1
                if len(words[kind]) < 2:
                    words[kind].add(reason)
            looked_at += len(batch)
        if looked_at >= COUNTED:
            break
    top = counts.most_common(TOP)
    samples = _samples(
        lake.dead_letters,
        day,
        [kind for kind, _ in top],
        lambda row: (_NUMBER.sub("…", row["reason"]),),
        # Where it says more than the reasons that are counted as one.
        about=lambda row: (
            {"reason": row["reason"]} if _NUMBER.search(row["reason"]) else {}
        ),
    )
    reasons = tuple(
        # Where all say the same, it is said as it is.
        Reason(
            plain(next(iter(words[kind])) if len(words[kind]) == 1 else kind),
            n,
            samples.get(kind, ()),
        )
        for kind, n in top
    )
    return LeftOut(rows, reasons, looked_at if looked_at < rows else None)


def _samples(
    table: Table[Any, Any],
    day: str,
    reasons: Sequence[str],
    reasons_of: Callable[[dict[str, Any]], Sequence[str]],
    about: Callable[[dict[str, Any]], dict[str, str]] = lambda row: {},
) -> dict[str, tuple[SampleRow, ...]]:
    """A few rows for each reason, by reason, as far as the first rows have any."""
    found: dict[str, list[SampleRow]] = {reason: [] for reason in reasons}
    for row in _first_rows(table, day):
        for reason in reasons_of(row):
            if reason in found and len(found[reason]) < SAMPLES:
                found[reason].append(_sample(row, reason, about(row)))
        if all(len(rows) == SAMPLES for rows in found.values()):
            break
    return {reason: tuple(rows) for reason, rows in found.items()}


def _first_rows(table: Table[Any, Any], day: str) -> Iterator[dict[str, Any]]:
    looked_through = 0
    for path in table.paths(day):
        _, file = open_part(path)
        with file:
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                yield from batch.to_pylist()
                looked_through += len(batch)
                if looked_through >= LOOKED_THROUGH:
                    return


def _sample(row: dict[str, Any], reason: str, about: dict[str, str]) -> SampleRow:
    """A row in few words: the key is its first column, what a rule is of begins it."""
    key, *names = [name for name in row if name not in OWN]
    at_fault = [name for name in names if reason.startswith(f"{name} ")]
    others = [name for name in names if name not in at_fault]
    return SampleRow(
        # Of a key that is a number, the digits are a name.
        f"{key} = {row[key] if isinstance(row[key], int) else value(row[key])}",
        {name: value(row[name]) for name in at_fault}
        | {name: plain(text) for name, text in about.items()},
        {name: value(row[name]) for name in others[:OTHERS]},
    )
