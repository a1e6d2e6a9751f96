"""The parts that a chunk leaves: predictions with their receipt, and dead letters.

It scores nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa

from batch_assets.incremental.reuse import ReusedRows
from batch_assets.lake.page_layout import NUMBERS
from batch_assets.lake.part_writer import PartWriter
from batch_assets.lake.parts import Part
from batch_assets.lake.profiles import Profile
from batch_assets.lake.receipts import (
    DeadLettersReceipt,
    OutputSummary,
    PredictionsReceipt,
)
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.lake.shards import content
from batch_assets.lake.side_tables import digests_of
from batch_assets.models.contract import Contract
from batch_assets.models.input_rows import InputRows, to_arrow
from batch_assets.models.output_specs import NO_ITEM, Ranking
from batch_assets.models.reference import Reference, histogram
from batch_assets.models.release import Release
from batch_assets.scoring.chunk_task import ChunkTask

if TYPE_CHECKING:
    from batch_assets.scoring.scorer import Scorer


def dead_letter_schema(contract: Contract) -> pa.Schema:
    """Return the columns of dead letters: the whole row as scored, the reason, the release."""
    return pa.schema(
        list(contract.feature_schema())
        + [
            (name, pa.string())
            for name in ("stage", "reason", "model_name", "model_version")
        ]
    )


@dataclass(frozen=True)
class PredictedRows:
    """Rows of a chunk with their prediction.

    Attributes:
        keys: (rows,).
        hashes: of the keys, uint64 (rows,).
        outputs: (rows,) each, by name.
    """

    keys: pa.Array
    hashes: np.ndarray
    outputs: dict[str, np.ndarray]

    def without(self, rows: Collection[int]) -> Self:
        """Return the others, in their order."""
        if not rows:
            return self
        kept = np.ones(len(self.keys), dtype=bool)
        kept[list(rows)] = False
        return type(self)(
            self.keys.filter(pa.array(kept)),
            self.hashes[kept],
            {name: values[kept] for name, values in self.outputs.items()},
        )


def write_predictions(
    task: ChunkTask,
    scorer: "Scorer",
    predicted: PredictedRows,
    dead: Part[DeadLettersReceipt] | None,
    reused: ReusedRows | None,
    profile: Profile | None,
) -> Part[PredictionsReceipt]:
    """Write the rows of a chunk that have a prediction.

    Args:
        task: the chunk.
        scorer: that scored it.
        predicted: its rows that have a prediction.
        dead: the part that the others went to.
        reused: which rows were taken over from the night before, if any could be.
        profile: of the rows that were scored.
    """
    release, contract = scorer.release, scorer.release.contract
    schema = _as_written(contract.prediction_schema())
    keys, outputs, words = predicted.keys, predicted.outputs, contract.vocabularies
    rows = pa.table(
        [
            keys,
            *(c for one in contract.outputs for c in one.written(outputs, words)),
            _same_on_every_row(release.name, len(keys)),
            _same_on_every_row(release.digest, len(keys)),
        ],
        schema=schema,
    )
    receipt = PredictionsReceipt(
        task.day,
        task.shard,
        task.chunk,
        task.job,
        ControlTotal.of_hashes(predicted.hashes),
        model=release.name,
        release=release.digest,
        contract=contract.digest,
        validated=task.made_of,
        replayed=task.validated.name if task.replay_of else None,
        row_groups=task.row_groups,
        dead=dead.sha256 if dead else None,
        arithmetic=scorer.device.arithmetic,
        carried=reused.total if reused else None,
        rescored=reused.rescored if reused else 0,
        side=digests_of(task.side),
        content=content(
            predicted.hashes, [outputs[c.name] for c in contract.output_columns]
        ),
        outputs=_summaries(outputs, release),
        profile=profile,
    )
    with PartWriter(
        task.predictions, schema, row_group_rows=max(len(rows), 1), layout=NUMBERS
    ) as writer:
        writer.write(rows)
        return writer.finish(receipt)


def _summaries(
    outputs: dict[str, np.ndarray], release: Release
) -> dict[str, OutputSummary]:
    """What is kept of each column of the outputs."""
    contract, reference = release.contract, release.manifest.reference
    rankings = {one.name: one.k for one in contract.outputs if isinstance(one, Ranking)}
    return {
        column.name: summary_of(
            outputs[column.name],
            reference.get(column.name),
            k=rankings.get(column.name),
        )
        for column in contract.output_columns
    }


def write_dead_letters(
    task: ChunkTask,
    scorer: "Scorer",
    keys: pa.Array,
    given: InputRows,
    faults: dict[int, str],
) -> Part[DeadLettersReceipt]:
    """Write rows that could not be scored, whole, each with its reason.

    Args:
        task: the chunk.
        scorer: that could not score them.
        keys: of the rows that were asked, (rows,).
        given: the same rows, as the model got them.
        faults: which of these rows, and why.
    """
    release, schema = scorer.release, dead_letter_schema(scorer.release.contract)
    at = sorted(faults)
    rows = pa.table(
        [
            keys.take(pa.array(at)),
            *to_arrow(given.take(np.array(at)), release.contract),
            pa.repeat("score", len(at)),
            pa.array([faults[row] for row in at]),
            pa.repeat(release.name, len(at)),
            pa.repeat(release.digest, len(at)),
        ],
        schema=schema,
    )
    receipt = DeadLettersReceipt(
        task.day,
        task.shard,
        task.chunk,
        task.job,
        ControlTotal.of(rows[release.contract.key.name]),
        release=release.digest,
        validated=task.made_of,
    )
    with PartWriter(task.dead_letters, schema, row_group_rows=len(at)) as writer:
        writer.write(rows)
        return writer.finish(receipt)


def summary_of(
    values: np.ndarray, reference: Reference | None, *, k: int | None = None
) -> OutputSummary:
    """Return what a day's distribution of an output is summed from.

    Args:
        values: of the output, (rows,) or (rows, width).
        reference: what its bins are.
        k: how many of them are shown, if they are the items of a ranking.
    """
    wide = values.astype(np.float64)
    return OutputSummary(
        rows=len(values),
        sum=float(wide.sum()),
        min=float(wide.min()) if wide.size else None,
        max=float(wide.max()) if wide.size else None,
        counts=histogram(wide, reference.edges if reference else ()),
        short=int((values[:, k - 1] == NO_ITEM).sum()) if k else None,
    )


def _as_written(schema: pa.Schema) -> pa.Schema:
    """The columns of predictions, with strings as dictionaries on their way to disk."""
    for at, column in enumerate(list(schema)[1:], 1):
        if pa.types.is_string(column.type):
            schema = schema.set(
                at, column.with_type(pa.dictionary(pa.int32(), pa.string()))
            )
    return schema


def _same_on_every_row(text: str, rows: int) -> pa.Array:
    """A column of one string, as a dictionary: written in a third of the time."""
    return pa.DictionaryArray.from_arrays(
        np.zeros(rows, np.int32), pa.array([text]), safe=False
    )
