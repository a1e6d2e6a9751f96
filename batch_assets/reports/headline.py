"""The first thing on the page: how the night stands, in words, and what to type next."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from batch_assets.reports.flow import Flow
from batch_assets.reports.served import Served
from batch_assets.reports.verdicts import GateLine
from batch_assets.reports.wording import count, share
from batch_assets.snapshots.manifest import day_of

Tone = Literal["good", "warn", "bad"]


@dataclass(frozen=True)
class Headline:
    """How a night stands, and the commands that come next, if any do."""

    tone: Tone
    title: str
    words: str
    commands: tuple[str, ...] = ()


def headline_of(
    pipeline: str, day: str, flow: Flow, gates: Sequence[GateLine], served: Served
) -> Headline:
    """Say how a night stands."""
    shut = [line for line in gates if line.state == "shut"]
    again = f"batch-assets run {pipeline} --day {day}"
    if shut:
        return _stopped(pipeline, day, flow, shut, served)
    if not flow.adds_up:
        words = f"{flow.words} {_readers(served)}"
        books = f"batch-assets books {pipeline} --day {day}"
        return Headline("bad", "The books do not close", words, (books, again))
    if flow.scored is None:
        reached = "the raw rows are" if flow.validated is None else "validated rows are"
        words = (
            f"Of {day} {reached} there, and no predictions; no gate is shut. The run "
            f"failed, was stopped, or goes on still: Dagster has its error. {_readers(served)}"
        )
        return Headline("bad", "The night ended before scoring", words, (again,))
    return _scored(pipeline, day, flow, gates, served)


def _stopped(
    pipeline: str, day: str, flow: Flow, shut: Sequence[GateLine], served: Served
) -> Headline:
    many = "A gate is" if len(shut) == 1 else f"{len(shut):,} gates are"
    told = " ".join(f"{line.gate}: {line.words.rstrip('.')}." for line in shut)
    moved = f"{shut[0].moved_by.rstrip('.')}."
    commands = [f"batch-assets books {pipeline} --day {day}"]
    if flow.dead:
        commands = [f"batch-assets dead-letters list {pipeline} --day {day}"]
    commands.append(f"batch-assets run {pipeline} --day {day}")
    if served.was_published:
        title = f"Published, and {many.lower()} shut by now"
        words = (
            f"{told} {_readers(served)} It was open when the day was published: limits, "
            "release or files have changed since."
        )
        return Headline("bad", title, words, tuple(commands))
    done = "nothing is scored" if flow.scored is None else "nothing of it is served"
    words = (
        f"{told} {_readers(served)} {moved} Mend what is named, then run the day again."
    )
    return Headline(
        "bad", f"Stopped: {many.lower()} shut, {done}", words, tuple(commands)
    )


def _scored(
    pipeline: str, day: str, flow: Flow, gates: Sequence[GateLine], served: Served
) -> Headline:
    """Say how a night stands that was scored, and that no gate stops."""
    told, again = _told(flow, gates, served), f"batch-assets run {pipeline} --day {day}"
    warns = any(line.state == "warned" for line in gates)
    tone: Tone = "warn" if warns else "good"
    match served.state:
        case "served":
            return Headline(tone, "Served, with warnings" if warns else "Served", told)
        case "newer" | "gone":
            was = "Was served" if served.was_published else "Scored"
            title = f"{was}; by now a newer day is"
            if served.version is None:
                told += " No version of this day lies on disk any more."
            return Headline(tone, title, told)
        case "pinned":
            unpin = f"batch-assets snapshot unpin {pipeline} --why REASON"
            return Headline("warn", "Scored; readers are pinned", told, (unpin,))
        case "held":
            unblock = f"batch-assets snapshot unblock {pipeline} --why REASON"
            title = "Scored, and held back by a person"
            words = f"{told} {served.why.rstrip('.')}."
            return Headline("warn", title, words, (unblock, again))
        case "outdated":
            title = "Scored again; readers get the day as it was before"
            return Headline("warn", title, told, (again,))
        case _:
            return Headline("bad", "Scored, and not served", told, (again,))


def _told(flow: Flow, gates: Sequence[GateLine], served: Served) -> str:
    warned = [line for line in gates if line.state == "warned"]
    opened, rows = sum(line.state == "open" for line in gates), flow.predicted or 0
    told = (
        f"{count(rows, 'row')} of {flow.raw:,} {'has' if rows == 1 else 'have'} a "
        f"prediction ({share(rows, flow.raw)}). {count(opened, 'gate')} "
        f"{'is' if opened == 1 else 'are'} open"
    )
    if warned:
        told += f", {len(warned):,} {'warns' if len(warned) == 1 else 'warn'}"
    told += f". {_readers(served)}"
    if warned:
        told += f" {warned[0].gate}: {warned[0].words.rstrip('.')}."
    return told


def _readers(served: Served) -> str:
    if served.readers is None:
        return "Readers get nothing: no day was ever published."
    of = day_of(served.readers)
    return f"Readers get the day {of}, as version {served.readers}."
