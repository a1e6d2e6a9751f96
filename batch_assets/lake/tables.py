"""The Delta tables of a pipeline: those of rows, and those of its metrics.

It knows no model.
"""

import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from copy import copy
from datetime import datetime
from typing import Self

from batch_assets.lake.books import books_of
from batch_assets.lake.commits import RawCommit, ScoringCommit, ValidationCommit
from batch_assets.lake.delta_table import Table
from batch_assets.lake.metrics import (
    DRIFT,
    ESTIMATE,
    OUTCOME,
    PLAN,
    PROFILE,
    STAGE,
    VERDICT,
    MetricTable,
)
from batch_assets.lake.parts import Part
from batch_assets.lake.receipts import (
    DEAD_LETTERS,
    OUTCOMES,
    PREDICTIONS,
    QUARANTINED,
    RAW,
    VALIDATED,
    DeadLettersReceipt,
    OutcomesReceipt,
    PredictionsReceipt,
    QuarantineReceipt,
    RawReceipt,
    ValidatedReceipt,
)
from batch_assets.lake.reconciliation import Books
from batch_assets.storage import BESIDE, StoragePath, local, remove_tree

# Where challengers have their tables, each a folder.
SHADOW = "shadow"
# How a folder begins that a run keeps in a table's while it makes a day.
BEFORE = ".before-"


class Lake:
    """The tables of one pipeline under a root."""

    def __init__(self, root: StoragePath, pipeline: str) -> None:
        self.pipeline = pipeline
        self.folder = root / "lake" / pipeline
        self.raw_features = Table(self.folder / RAW, RawReceipt, RawCommit)
        self.validated_features = Table(
            self.folder / VALIDATED, ValidatedReceipt, ValidationCommit
        )
        self.quarantined_rows = Table(
            self.folder / QUARANTINED, QuarantineReceipt, ValidationCommit
        )
        self.outcomes: Table[RawReceipt, RawCommit] = Table(
            self.folder / OUTCOMES, OutcomesReceipt, RawCommit
        )
        self.stage_metrics = MetricTable(self.folder / "stage_metrics", STAGE)
        self.estimate_metrics = MetricTable(self.folder / "estimate_metrics", ESTIMATE)
        self.plan_metrics = MetricTable(self.folder / "plan_metrics", PLAN)
        self._score_into(self.folder)

    def _score_into(self, folder: StoragePath) -> None:
        self.predictions = Table(
            folder / PREDICTIONS, PredictionsReceipt, ScoringCommit
        )
        self.dead_letters = Table(
            folder / DEAD_LETTERS, DeadLettersReceipt, ScoringCommit
        )
        self.profile_metrics = MetricTable(folder / "profile_metrics", PROFILE)
        self.drift_metrics = MetricTable(folder / "drift_metrics", DRIFT)
        self.outcome_metrics = MetricTable(folder / "outcome_metrics", OUTCOME)
        self.gate_verdicts = MetricTable(folder / "gate_verdicts", VERDICT)

    def of_shards(self, shards: Collection[int] | None) -> Self:
        """Return the same tables, whose days are read of these shards alone.

        A row's shard is a hash of its key: some shards are a sample of the rows.
        """
        some = copy(self)
        some.raw_features = self.raw_features.of_shards(shards)
        some.validated_features = self.validated_features.of_shards(shards)
        some.quarantined_rows = self.quarantined_rows.of_shards(shards)
        some.predictions = self.predictions.of_shards(shards)
        some.dead_letters = self.dead_letters.of_shards(shards)
        return some

    def shadow(self, release: str, shards: Collection[int] | None = None) -> Self:
        """Return the tables of a challenger: what it says lies apart, and is never served.

        Args:
            release: the challenger's digest.
            shards: those that it scores; all if left out.
        """
        other = self.of_shards(shards)
        other._score_into(self.folder / SHADOW / release[:16])
        return other

    def exchange_folder(self, day: str) -> StoragePath:
        """Return where workers elsewhere post what came of their work on a day."""
        return self.folder / f".spread-{day}"

    def remove_leftovers(self, day: str) -> None:
        """Remove what killed runs of a day left half written.

        Only for whoever holds the day's claim: it would break another run's writing.
        """
        for table in (
            self.raw_features,
            self.validated_features,
            self.quarantined_rows,
            self.predictions,
            self.dead_letters,
            self.outcomes,
        ):
            # In a store nothing is half written: what is, lies on the machine of its run.
            directory = local(table.path)
            for path in directory.glob(f"day={day}/*/*{BESIDE}"):
                path.unlink(missing_ok=True)
            for folder in directory.glob(f"{BEFORE}{day}-*"):
                shutil.rmtree(folder, ignore_errors=True)
        with suppress(FileNotFoundError):  # Mostly it is not there.
            remove_tree(self.exchange_folder(day))

    def forced_at(self, day: str) -> datetime | None:
        """Return when a day's rows were taken though the source tells no past day."""
        commit = self.raw_features.last_commit(day)
        return commit.facts.forced_at if commit else None

    def books(
        self,
        day: str,
        *,
        scoring: bool = True,
        validated: Sequence[Part[ValidatedReceipt]] | None = None,
    ) -> Books:
        """Return the books of a day, from the receipts of every committed part.

        Args:
            day: the day.
            scoring: whether to look beyond validation.
            validated: the day's validated parts, where they have just been read.
        """
        if validated is None:
            validated = self.validated_features.parts(day)
        scored = self.predictions.parts(day) if scoring else []
        return books_of(
            day,
            raw=self.raw_features.parts(day),
            validated=validated,
            quarantined=self.quarantined_rows.parts(day),
            scored=scored,
            dead=self.dead_letters.parts(day) if scoring else [],
            # A shard leaves a part, rows or none: one that has none was not scored.
            failed=self.failed_shards(day)
            if scored and {p.shard for p in validated} - {p.shard for p in scored}
            else (),
        )

    def failed_shards(self, day: str) -> dict[int, str]:
        """Return which shards of a committed day could not be scored, and why."""
        commit = self.predictions.last_commit(day)
        return commit.facts.failed if commit else {}
