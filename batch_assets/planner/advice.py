"""What helps a night that is too long, or costs too much: by its bottleneck.

It looks nothing up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from batch_assets.planner.capacity import PREDICTIONS, DeviceRate, Option, PlannedStage
from batch_assets.planner.estimate import ROAD
from batch_assets.planner.status import duration

# From so many chunks for each device on, the last ones to end matter little.
CHUNKS_EACH = 3
# From so large a share of chunks that are done again, smaller ones are worth it.
REDONE = 0.02
RAW, VALIDATED, _, SNAPSHOT = ROAD

# What makes a stage shorter that more devices do not.
OF_A_STAGE = {
    RAW: "pin what can't change under you (a source of kind delta, or files by their etag) "
    "instead of copying the rows of a query",
    VALIDATED: "give the machine more cores, or validate on a cluster: an engine `ray` or "
    "`spark` spreads this stage, too",
    SNAPSHOT: "give the machine more cores and `shards`, which are built side by side; with "
    "`incremental: true` files of unchanged shards are linked",
}


@dataclass(frozen=True)
class Advice:
    """What to do, and with which command, if there is one."""

    text: str
    command: str | None = None


def bottleneck_of(stages: Sequence[PlannedStage]) -> PlannedStage:
    """Return the stage that takes longest."""
    return max(stages, key=lambda stage: stage.seconds)


def advise(
    model: str,
    stages: Sequence[PlannedStage],
    rate: DeviceRate,
    option: Option,
    chunks: int,
    deadline: float | None,
) -> list[Advice]:
    """Say what to do about the bottleneck, and about what devices do in vain.

    Args:
        model: the name of the model.
        stages: of the night.
        rate: of a device.
        option: the way to run it that was asked for.
        chunks: how many the night has.
        deadline: in seconds.
    """
    told = []
    longest = bottleneck_of(stages)
    rest = sum(stage.seconds for stage in stages if stage.stage != PREDICTIONS)
    if deadline is not None and rest > deadline:
        told.append(
            Advice(
                f"no number of devices meets {duration(deadline)}: without predictions the "
                f"night takes {duration(rest)} already"
            )
        )
    if longest.stage == PREDICTIONS:
        told += _of_scoring(model, rate, option, rest)
    else:
        told.append(Advice(f"{longest.stage}: {OF_A_STAGE[longest.stage]}"))
    if chunks < CHUNKS_EACH * option.devices:
        told.append(
            Advice(
                f"{chunks:,} chunks for {option.devices:,} devices: some have nothing to "
                "do while the last ones end. Take fewer devices, or a smaller chunk_rows"
            )
        )
    if option.redone_share > REDONE or option.failed_share:
        told.append(
            Advice(
                "a device is taken away before it has done its chunk too often: a smaller "
                "chunk_rows loses less each time"
            )
        )
    return told


def _of_scoring(
    model: str, rate: DeviceRate, option: Option, rest: float
) -> list[Advice]:
    half = option.scoring_seconds / 2 + rest
    told = [Advice(f"on twice the devices it would be about {duration(half)}")]
    if rate.bound in ("read", "write"):
        told.append(
            Advice(
                f"the model waits for its host, which can't {rate.bound} as fast: give a "
                "device more cores, and take `layout: fast`"
            )
        )
    else:
        told.append(
            Advice(
                "let the model get the batches that suit the device, compile it "
                "(`compile: true`), and score what has changed alone (`incremental: true`)",
                f"batch-assets sweep {model}",
            )
        )
    return told
