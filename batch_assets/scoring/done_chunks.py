"""The chunks of a plan that are done, and whether they are those that were planned."""

from collections import Counter
from collections.abc import Iterable

from batch_assets.errors import ScoringError
from batch_assets.lake.parts import Part, read_columns
from batch_assets.lake.receipts import DeadLettersReceipt, PredictionsReceipt
from batch_assets.quality.gates import DEAD_LETTERS
from batch_assets.scoring.chunk_task import ChunkTask, Scored
from batch_assets.scoring.plan import Plan


class StoppedError(ScoringError):
    """The night as a whole must not go on, whichever shard is scored next."""


class DoneChunks:
    """Chunks by shard and number, with the seconds that they took in this run.

    `failed` are the shards that could not be scored, and why.
    """

    def __init__(self, plan: Plan, before: Iterable[Scored] = ()) -> None:
        """Begin with the chunks that were done `before`; their seconds don't count."""
        self.stages: Counter[str] = Counter()
        self.model_seconds = 0.0
        self.failed: dict[int, str] = {}
        self._plan = plan
        self._done = {_number_of(scored): scored for scored in before}
        # Counted, not summed: it is asked after each of tens of thousands of chunks.
        self._dead_rows = sum(scored.dead_rows for scored in self._done.values())

    @property
    def parts(self) -> list[Part[PredictionsReceipt]]:
        return [scored.part for scored in self._done.values()]

    @property
    def dead(self) -> list[Part[DeadLettersReceipt]]:
        return [scored.dead for scored in self._done.values() if scored.dead]

    def has(self, task: ChunkTask) -> bool:
        """Tell whether a chunk is done."""
        return (task.shard, task.chunk) in self._done

    def add(self, scored: Scored) -> None:
        """Count a chunk that is done now."""
        number = _number_of(scored)
        if number in self._done:
            self._dead_rows -= self._done[number].dead_rows
        self._done[number] = scored
        self._dead_rows += scored.dead_rows
        self.stages.update(scored.seconds)
        self.model_seconds += scored.model_seconds

    def fail(self, shard: int, why: str) -> None:
        """Leave a shard out that can't be scored; what is done of it stays on disk."""
        self.failed[shard] = why
        for number in [number for number in self._done if number[0] == shard]:
            self._dead_rows -= self._done.pop(number).dead_rows

    def must_have_few_dead(self) -> None:
        """Stop a night that has more dead letters than it may have when it is done.

        Raises:
            StoppedError: with what the model said most often.
        """
        plan, dead = self._plan, self._dead_rows
        if dead <= plan.max_dead:
            return
        reasons: Counter[str] = Counter()
        for part in self.dead:
            reasons.update(read_columns(part.path, ["reason"])["reason"].to_pylist())
        most = "; ".join(f"{n:,} times: {why}" for why, n in reasons.most_common(3))
        msg = (
            f"the night of {plan.day} stops: {dead:,} of {plan.rows:,} rows are dead "
            f"letters already, and {plan.max_dead:,} may be "
            f"(gates.max_dead_letter_share). Most often, {most}. Nothing was committed, "
            "what is served stays. Mend the model or its features, or allow more, and "
            "run the day again. To let this day pass all the same: batch-assets publish "
            f"PIPELINE {plan.day} --override {DEAD_LETTERS} --why … --until …"
        )
        raise StoppedError(msg)

    def must_be_as_planned(self) -> None:
        """Refuse chunks that are missing, or that nobody planned.

        Raises:
            ScoringError: with the first of them.
        """
        plan = self._plan
        planned = {
            (task.shard, task.chunk)
            for task in plan.tasks
            if task.shard not in self.failed
        }
        # The books are closed shard by shard of the plan: they would not see a strange
        # chunk.
        missing, strange = planned - self._done.keys(), self._done.keys() - planned
        if missing:
            shard, chunk = min(missing)
            msg = (
                f"{len(missing)} of {len(plan.tasks)} chunks of {plan.day} are missing, "
                f"though the engine reported success; the first: shard {shard}, chunk "
                f"{chunk}. Nothing was committed; run the day again."
            )
            raise ScoringError(msg)
        if strange:
            shard, chunk = min(strange)
            msg = (
                f"the engine came back with {len(strange)} chunks of {plan.day} that "
                f"nobody planned; the first: shard {shard}, chunk {chunk}. Nothing was "
                "committed; run the day again."
            )
            raise ScoringError(msg)


def _number_of(scored: Scored) -> tuple[int, int]:
    return scored.part.shard, scored.part.receipt.chunk
