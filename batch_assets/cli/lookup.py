"""`lookup`: what is served for a key. It waits for neither Dagster nor torch."""

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from batch_assets.cli.collector import uncollected
from batch_assets.cli.names import PIPELINE
from batch_assets.cli.options import as_json
from batch_assets.cli.pipelines import snapshots_of
from batch_assets.cli.printing import print_json
from batch_assets.errors import SnapshotError

if TYPE_CHECKING:
    from batch_assets.snapshots.version import Answer


@click.command()
@click.argument("pipeline", type=PIPELINE)
@click.argument("key")
@click.option("--segment", help="Whose fallback a key gets that the night has not.")
@as_json
def lookup(pipeline: str, key: str, segment: str | None, as_json: bool) -> None:
    """What the served version of PIPELINE says of KEY."""
    # numpy starts threads for matrices that a lookup does not have, and pydantic looks
    # through all that is installed for plugins.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    with uncollected():
        from batch_assets.snapshots.version import Version

        snapshot = Version.current(snapshots_of(pipeline))
        answer = snapshot.get(key, segment)
    if answer is None:
        msg = (
            f"'{key}' is not in version {snapshot.name} of {pipeline}, which has "
            f"{snapshot.manifest.rows:,} keys of {snapshot.manifest.day}"
        )
        raise SnapshotError(msg)
    if as_json:
        print_json(answer.to_dict())
    else:
        print_answer(answer)


def print_answer(answer: "Answer") -> None:
    """Print the outputs of a key, and of which version they are."""
    segment = "" if answer.segment is None else f", of '{answer.segment}'"
    about = {
        "fallback": [
            f"the night has no {answer.key!r}: this is shown instead{segment}"
        ],
        "day": [answer.day],
        "release": [str(answer.release)],
        "version": [answer.version],
        "age": [_age(answer.age)],
        "kept": [f"its shard could not be scored: {answer.kept.why}"]
        if answer.kept
        else [],
        "overridden": [f"{one.gate} {one}" for one in answer.overrides],
    }
    if not answer.is_fallback:
        del about["fallback"]
    about = {name: lines for name, lines in about.items() if lines}
    shown = {name: _lines(value) for name, value in answer.outputs.items()} | about
    width = max(8, *map(len, shown))
    for name, lines in shown.items():
        for number, line in enumerate(lines):
            click.echo(f"{'' if number else name:<{width}} {line}")


def _lines(value: Any) -> list[str]:
    """An output as it is read: a ranking has a line for each place."""
    if isinstance(value, str):
        return [value]
    if value == []:
        return ["none"]
    if not isinstance(value, list):
        return [f"{value:.6g}"]
    if value and isinstance(value[0], tuple):
        items = [str(item) for item, _ in value]
        width = max(map(len, items))
        return [
            f"{place:>2}  {item:<{width}}  {score:.6g}"
            for place, (item, (_, score)) in enumerate(
                zip(items, value, strict=True), 1
            )
        ]
    return [", ".join(f"{number:.6g}" for number in value)]


def _age(age: timedelta) -> str:
    seconds = age.total_seconds()
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''}"
    return f"{seconds:.0f} seconds"
