"""Which rows were left out and why, with a few of them.

How many broke a rule stands in receipts. Of the rows themselves a few are read, from the
first parts, however many there are.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from batch_assets.lake.delta_table import Table
from batch_assets.lake.parts import open_part, read_batches
from batch_assets.lake.tables import Lake
from batch_assets.quality.rules import RULES
from batch_assets.reports.facts import LeftOut, Reason, SampleRow
from batch_assets.reports.wording import plain, shortened, value

TOP, SAMPLES = 5, 3
# So many rows are looked through for samples, and so many dead letters for reasons.
LOOKED_THROUGH, COUNTED = 2_000, 100_000
BATCH_ROWS = 500
# So much of a reason is shown.
LONGEST = 300
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
    rows_of = _first_rows(lake.quarantined_rows, day)
    samples = _samples(rows_of, names, lambda row: row.get(RULES) or ())
    reasons = (Reason(plain(rule), n, samples.get(rule, ())) for rule, n in top)
    return LeftOut(rows, tuple(reasons))


def dead_letters_of(lake: Lake, day: str) -> LeftOut:
    """Return why rows of a day could not be scored; what differs in a number is one."""
    rows = lake.dead_letters.rows_by_day().get(day, 0)
    if not rows:
        return LeftOut()
    counts: Counter[str] = Counter()
    words: dict[str, set[str]] = defaultdict(set)
    for reason in _reasons(lake, day):
        kind = _kind(reason)
        counts[kind] += 1
        if len(words[kind]) < 2:
            words[kind].add(reason)
    samples = _samples(
        (_as_it_came(row) for row in _first_rows(lake.dead_letters, day)),
        [kind for kind, _ in counts.most_common(TOP)],
        lambda row: (_kind(row["reason"]),),
        # Where it says more than the reasons that are counted as one.
        lambda row: {"reason": row["reason"]} if "…" in _kind(row["reason"]) else {},
    )
    reasons = []
    for kind, n in counts.most_common(TOP):
        # Where all say the same, it is said as it is.
        said = kind if len(words[kind]) > 1 else next(iter(words[kind]))
        reasons.append(Reason(_told(said), n, samples.get(kind, ())))
    looked_at = counts.total()
    return LeftOut(rows, tuple(reasons), looked_at if looked_at < rows else None)


def _reasons(lake: Lake, day: str) -> Iterator[str]:
    """The reasons of a day's dead letters, of no more than are counted."""
    left = COUNTED
    for path in lake.dead_letters.paths(day):
        for batch in read_batches(path, rows=BATCH_ROWS, columns=["reason"]):
            yield from batch["reason"].to_pylist()
            left -= len(batch)
            if left <= 0:
                return


def _kind(reason: str) -> str:
    return _NUMBER.sub("…", reason)


def _told(reason: str) -> str:
    """A reason in words; what a model raises may be long."""
    return shortened(plain(reason), LONGEST)


def _as_it_came(row: dict[str, Any]) -> dict[str, Any]:
    """A dead letter's row; what a model gets as NaN was missing, and nothing else is."""
    return {name: None if one != one else one for name, one in row.items()}


def _samples(
    rows: Iterable[dict[str, Any]],
    reasons: Sequence[str],
    reasons_of: Callable[[dict[str, Any]], Sequence[str]],
    about: Callable[[dict[str, Any]], dict[str, str]] = lambda row: {},
) -> dict[str, tuple[SampleRow, ...]]:
    """A few rows for each reason, by reason, as far as there are any."""
    found: dict[str, list[SampleRow]] = {reason: [] for reason in reasons}
    for row in rows:
        for reason in reasons_of(row):
            if reason in found and len(found[reason]) < SAMPLES:
                found[reason].append(_sample(row, reason, about(row)))
        if all(len(samples) == SAMPLES for samples in found.values()):
            break
    return {reason: tuple(samples) for reason, samples in found.items()}


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
        | {name: _told(text) for name, text in about.items()},
        {name: value(row[name]) for name in others[:OTHERS]},
    )
