"""Which days a run of an asset is for: one, or the days of a range in their order.

Dagster's command line runs a range (`--partition-range`) as one run, and the UI can. What
makes a day is written for one day; here it is done for each.
"""

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import click
import dagster as dg

# Dagster's own tags: of what version the data is, and what it was made of.
VERSION, INPUT_VERSION = "dagster/data_version", "dagster/input_data_version"
_of_a_range: ContextVar[str | None] = ContextVar("day", default=None)


def backfill_policy() -> dg.BackfillPolicy | None:
    """Return a run for each day, or one for all where the command line runs a range.

    There Dagster refuses whatever is not declared for it. Everywhere else a range is a
    backfill of one run a day, because a day whose gate is shut then stops no other, and
    only the check of a single day is recorded with its day.
    """
    context = click.get_current_context(silent=True)
    ranged = context is not None and context.params.get("partition_range")
    return dg.BackfillPolicy.single_run() if ranged else None


def day_of(context: dg.AssetExecutionContext) -> str:
    """Return the day that is being made."""
    return _of_a_range.get() or context.partition_key


def for_each_day(make: Callable[..., Any]) -> Callable[..., Any]:
    """Call an asset's function, which makes `day_of(context)`, for each day of the run.

    Of a range, each day's metadata goes to the day. The first day that fails ends the
    run: what was committed stays, and nothing that follows from any of the days is begun.

    What is made beside what was selected is recorded, too: one function makes both.
    """

    @functools.wraps(make)
    def made(context: dg.AssetExecutionContext, **given: Any) -> Any:
        if not context.has_partition_key:
            return _range(context, functools.partial(make, context, **given))
        return make(context, **given)

    @functools.wraps(make)
    def yielding(context: dg.AssetExecutionContext, **given: Any) -> Any:
        for result in made(context, **given):
            key = getattr(result, "asset_key", None)
            if key is None or key in context.selected_asset_keys:
                yield result
            elif context.has_partition_key:
                _record(context, context.partition_key, result)

    # Dagster reads from the function how many assets it makes.
    return yielding if inspect.isgeneratorfunction(make) else made


def _range(
    context: dg.AssetExecutionContext, make: Callable[[], Any]
) -> Iterator[dg.MaterializeResult]:
    versions: dict[dg.AssetKey | None, list[str]] = {}
    for day in context.partition_keys:
        for result in _one(day, make):
            if result.asset_key and result.asset_key not in context.selected_asset_keys:
                _record(context, day, result)
                continue
            context.add_asset_metadata(
                result.metadata or {}, asset_key=result.asset_key, partition_key=day
            )
            version = result.data_version
            versions.setdefault(result.asset_key, []).append(
                version.value if version else day
            )
    for key, of_key in versions.items():
        # Dagster takes one version of the data for all days of a run.
        digest = hashlib.sha256(" ".join(of_key).encode()).hexdigest()
        yield dg.MaterializeResult(asset_key=key, data_version=dg.DataVersion(digest))


def _record(
    context: dg.AssetExecutionContext, day: str, made: dg.MaterializeResult
) -> None:
    """Record what nobody selected, as Dagster records what somebody has."""
    key, version = made.asset_key, made.data_version
    tags = {VERSION: version.value} if version else {}
    (spec,) = [one for one in context.assets_def.specs if one.key == key]
    for dep in spec.deps:
        event = context.instance.get_latest_materialization_event(dep.asset_key)
        of_dep = event.asset_materialization if event else None
        # By that of the model the gate of the release knows what the rows came from.
        if of_dep and of_dep.partition is None and VERSION in (of_dep.tags or {}):
            name = dep.asset_key.to_user_string()
            tags[f"{INPUT_VERSION}/{name}"] = (of_dep.tags or {})[VERSION]
    # The hint of `log_event` leaves out that it takes one.
    event_of_it: Any = dg.AssetMaterialization(
        spec.key, partition=day, metadata=made.metadata, tags=tags
    )
    context.log_event(event_of_it)


def _one(day: str, make: Callable[[], Any]) -> list[dg.MaterializeResult]:
    with one_of_a_range(day):
        results = make()
        return list(results) if isinstance(results, Iterator) else [results]


@contextmanager
def one_of_a_range(day: str) -> Iterator[None]:
    """Let `day_of` be a day of those that a run is for."""
    token = _of_a_range.set(day)
    try:
        yield
    except Exception as error:
        error.add_note(f"This was {day}, one day of the range that the run is for.")
        raise
    finally:
        _of_a_range.reset(token)
