"""The gate of a sink: the store serves what is served on disk."""

from contextlib import closing
from dataclasses import dataclass

from batch_assets.quality.verdict import Gate, Verdict
from batch_assets.sinks.factory import open_sink
from batch_assets.sinks.sync import serves_the_same
from batch_assets.snapshots.store import SnapshotStore
from batch_assets.spec import Target


@dataclass(frozen=True)
class SinkEvidence:
    """A sink as declared, the pipeline that it is of, and what is served on disk."""

    target: Target
    pipeline: str
    store: SnapshotStore


def _serves_the_snapshot(evidence: SinkEvidence) -> Verdict:
    with closing(open_sink(evidence.target, evidence.pipeline)) as sink:
        return serves_the_same(sink, evidence.store)


def gate_of(sink: str) -> Gate[SinkEvidence]:
    """Return the gate of a sink, by its name."""
    return Gate(
        name=f"{sink}_serves_the_snapshot",
        asset=f"{sink}_snapshot",
        judge=_serves_the_snapshot,
        description="The store serves the version that is served on disk.",
        moved_by="No field of the YAML moves it: run the day again",
    )
