"""What the command line prints: tables that read the same in a log, and JSON.

It knows how things look, not where they come from.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import click
from pydantic_core import to_json


def print_nights(reports: Iterable[Any]) -> None:
    def number(value: int | None) -> str:
        return "-" if value is None else f"{value:,}"

    def rate(report: Any) -> str:
        if report.unchanged:
            return "unchanged"
        return number(report.rows_per_second and round(report.rows_per_second))

    print_table(
        [
            "day",
            "rows in",
            "quarantined",
            "scored",
            "dead letters",
            "checks passed",
            "rows/s",
            "snapshot version",
        ],
        [
            [
                r.day,
                number(r.raw_rows),
                number(r.quarantined_rows),
                number(r.scored_rows),
                number(r.dead_letters),
                f"{r.checks_passed} of {r.checks}",
                rate(r),
                r.version or "-",
            ]
            for r in reports
        ],
    )
    for report in reports:
        for text in report.warnings:
            click.echo(f"{report.day} warns: {text}")
        for text in report.errors:
            click.echo(f"{report.day} failed: {text}", err=True)


def print_day(settled: Any, *, err: bool) -> None:
    """One line of a day in a range: its state, its rows, its seconds."""
    report = settled.report
    rows = "-" if report.raw_rows is None else f"{report.raw_rows:,}"
    state = settled.state.upper() if report.errors else settled.state
    line = f"{report.day}  {state:<11}{rows:>15} rows{settled.seconds:>9,.1f} s"
    reasons = report.errors[:1] or report.warnings[:1]
    said = [reason.splitlines()[0] for reason in reasons]
    click.echo("  ".join([line, *said]), err=err)


def print_range(pipeline: str, settled: Sequence[Any], days: int, *, err: bool) -> None:
    """What came of a range of days, and what is left to do."""
    count = Counter(one.state for one in settled)
    parts = [f"{count['done'] + count['unchanged']:,} of {days:,} days are done"]
    parts += [f"{count['unchanged']:,} of them unchanged"] if count["unchanged"] else []
    parts += [f"{count['failed']:,} failed"] if count["failed"] else []
    click.echo(f"{pipeline}: {', '.join(parts)}", err=err)
    for one in settled:
        for text in one.report.errors[:1]:
            click.echo(f"{one.report.day} {one.state}: {text}", err=True)
    if count["failed"]:
        click.echo(
            "Mend what they name, then run the same command again: days that are done "
            "are not done again.",
            err=True,
        )
    elif count["done"] + count["unchanged"] < days:
        click.echo(
            "Interrupted. Run the same command again: it goes on where it was.",
            err=True,
        )


def print_answer(answer: Any) -> None:
    for name, value in answer.outputs.items():
        click.echo(f"{name:<8} {value:.6g}")
    click.echo(f"{'day':<8} {answer.day}")
    click.echo(f"{'release':<8} {answer.release}")
    click.echo(f"{'version':<8} {answer.version}")
    click.echo(f"{'age':<8} {_age(answer.age)}")


def print_sweep(sweep: Any) -> None:
    def memory(point: Any) -> str:
        return "-" if point.memory_mb is None else f"{point.memory_mb:,.0f}"

    print_table(
        ["rows a batch", "rows/s", "MiB", ""],
        [
            [
                f"{point.batch_rows:,}",
                f"{point.rows_per_second:,.0f}",
                memory(point),
                "knee" if point == sweep.knee else "",
            ]
            for point in sweep.points
        ],
    )
    click.echo(f"{sweep.edge}; nights on auto give it {sweep.knee.batch_rows:,} rows")


def print_letters(rows: Sequence[dict[str, Any]], limit: int) -> None:
    key = next(iter(rows[0]), "") if rows else ""
    if not rows:
        click.echo("no dead letters")
        return
    print_table(
        [key, "shard", "stage", "release", "reason"],
        [
            [
                str(row[key]),
                str(row["shard"]),
                row["stage"],
                f"{row['model_name']} {row['model_version'][:12]}",
                row["reason"],
            ]
            for row in rows[:limit]
        ],
    )
    if len(rows) > limit:
        click.echo(f"… and {len(rows) - limit:,} more; --limit 0 prints all")
    click.echo(f"\n{len(rows):,} dead letters; most often")
    reasons = Counter(row["reason"] for row in rows)
    for reason, count in reasons.most_common(5):
        click.echo(f"{count:>8,}  {reason}")


def print_replay(report: Any) -> None:
    for text in report.errors:
        click.echo(f"{report.day} failed: {text}", err=True)
    if report.replayed_rows is None:
        return
    click.echo(
        f"{report.pipeline} {report.day}: {report.rescued_rows:,} of "
        f"{report.replayed_rows:,} dead letters are scored now, "
        f"{report.dead_letters:,} are left"
    )
    if report.served_version:
        click.echo(f"served: {report.served_version}")


def print_act(name: str, act: Any, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, **act.model_dump(mode="json")})
        return
    until = f" until {act.until:%Y-%m-%d %H:%M} UTC" if act.until else ""
    click.echo(
        f"{name} {act.digest[:12]}: {act.act}d for {act.channel}{until} by {act.by}: "
        f"{act.why}"
    )


def print_done(pipeline: str, done: Any, as_json: bool) -> None:
    """What was done to what is served, and what follows from it."""
    act, block = done.entry, done.block
    if as_json:
        print_json(
            {
                "pipeline": pipeline,
                **act.model_dump(mode="json"),
                "served": done.served,
                "blocked_until": block.until if block else None,
            }
        )
        return
    click.echo(f"{pipeline}: {act.act} of {act.version or '-'} by {act.by}: {act.why}")
    click.echo(f"served now: {done.served or 'nothing'}")
    if act.act == "rollback" and done.served != act.version:
        click.echo(f"readers are pinned to {done.served}; unpin to serve {act.version}")
    if block:
        click.echo(f"{block}. Nights are built and not served until then")
    if act.act == "unblock":
        click.echo("run the newest day again to serve it, or wait for the next night")


def print_table(heads: list[str], rows: Sequence[Sequence[str | None]]) -> None:
    """A plain table: it reads the same on a terminal, in a log and in a pipe."""
    cells = [heads, *([cell or "" for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    numeric = [
        all(row[i][:1].isdigit() or row[i] in ("-", "unchanged") for row in cells[1:])
        and i > 0
        for i in range(len(heads))
    ]
    for row in cells:
        line = "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        click.echo(line.rstrip())


def print_json(value: Any) -> None:
    # Every JSON parser must read it: a feature that is no number becomes a string.
    text = to_json(
        value,
        indent=2,
        inf_nan_mode="strings",
        bytes_mode="base64",
        timedelta_mode="float",
        fallback=str,
    )
    click.echo(text)


def _age(age: timedelta) -> str:
    seconds = age.total_seconds()
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{seconds:.0f} seconds"
