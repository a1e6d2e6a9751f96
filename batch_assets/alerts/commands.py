"""Which command helps, by what happened. Each is one of `batch-assets`."""

from batch_assets.quality.gates import GATES
from batch_assets.quality.verdict import BOOKS
from batch_assets.snapshots.gates import SNAPSHOT_GATES
from batch_assets.snapshots.store import SnapshotStore

OF_GATES = {gate.name: gate.look for gate in GATES} | {
    gate.name: gate.look for gate in SNAPSHOT_GATES
}

# What a step needs to go on where it was, by the end of the job's name.
AGAIN = {
    "_replay_job": "dead-letters replay {pipeline} --day {day}",
    "_outcomes_job": "outcomes run {pipeline} --day {day}",
}
RUN = "run {pipeline} --day {day}"
RUN_RANGE = "run {pipeline} --from {day} --to {last}"
SHOW_OUTCOMES = "outcomes show {pipeline} --from {day} --to {day}"
# Steps that are of no day, or fail for what is of no day.
OF_STEPS = {"batch_size_sweep": "sweep {pipeline}", "model_release": "release list"}


def of_gate(pipeline: str, asset: str, gate: str, day: str | None) -> str:
    """Return the command that shows why a gate is shut, or opens it."""
    if day is None:
        return of_look(pipeline)
    command = SHOW_OUTCOMES if asset == "outcomes" else OF_GATES.get(gate, BOOKS)
    return _filled(command, pipeline, day)


def of_step(pipeline: str, job: str, step: str, day: str | None) -> str:
    """Return the command that does a failed step again.

    Args:
        pipeline: its name.
        job: that ran.
        step: that failed, as the asset is named.
        day: of the run; `first...last` of a range.
    """
    if step in OF_STEPS or day is None:
        return _filled(OF_STEPS.get(step, "snapshot list {pipeline}"), pipeline, "")
    first, _, last = day.partition("...")
    if last:
        return _filled(RUN_RANGE, pipeline, first, last)
    endings = (text for ending, text in AGAIN.items() if job.endswith(ending))
    return _filled(next(endings, RUN), pipeline, day)


def of_stale(pipeline: str, store: SnapshotStore, newest: str) -> str:
    """Return the command that makes what is served fresh again.

    Args:
        pipeline: its name.
        store: of its versions.
        newest: the day that ended last.
    """
    if store.pinned():
        return f"batch-assets snapshot unpin {pipeline} --why …"
    if store.block():
        return f"batch-assets snapshot unblock {pipeline} --why …"
    return _filled(RUN, pipeline, newest)


def of_sink(pipeline: str) -> str:
    """Return the command that makes the sinks serve what is served here."""
    return f"batch-assets sinks follow {pipeline}"


def of_look(pipeline: str) -> str:
    """Return the command that shows what is served, where no other is of help."""
    return f"batch-assets snapshot list {pipeline}"


def _filled(command: str, pipeline: str, day: str, last: str = "") -> str:
    return f"batch-assets {command.format(pipeline=pipeline, day=day, last=last)}"
