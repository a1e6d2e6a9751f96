"""The profile of a chunk: a sample of its rows, counted in the bins of the release.

It judges nothing.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from batch_assets.incremental.reuse import ReusedRows
from batch_assets.lake.profiles import Profile, Segment
from batch_assets.models.bins import Bins, codes_of
from batch_assets.models.contract import Contract
from batch_assets.models.input_rows import InputRows
from batch_assets.models.output_specs import Computed
from batch_assets.models.profiling import (
    ProfileLayout,
    items_of,
    numbers_of_inputs,
    numbers_of_outputs,
    segment_columns,
)
from batch_assets.models.release import Release
from batch_assets.models.score_bins import SIZE, probabilities, score_codes
from batch_assets.scoring.chunk_task import ChunkTask

# So many rows of a day tell all there is to tell of twenty bins.
ENOUGH_ROWS = 65_536
_LAYOUTS: dict[tuple[str, tuple[str, ...]], ProfileLayout] = {}


def profiled_one_in(rows: int) -> int:
    """Return of how many rows of a day one is profiled, a power of two."""
    return 1 << max(0, -(-rows // ENOUGH_ROWS) - 1).bit_length()


def profile_of_chunk(
    task: ChunkTask,
    release: Release,
    rows: InputRows,
    outputs: Computed,
    hashes: np.ndarray,
    faults: Mapping[int, str],
    reused: ReusedRows | None,
) -> Profile | None:
    """Count the rows that were scored, and are not at fault.

    Args:
        task: the chunk.
        release: that scored them; without bins nothing is counted.
        rows: that were scored.
        outputs: of these rows.
        hashes: of their keys, uint64 (rows,): they choose the sample.
        faults: which of the rows are dead letters.
        reused: what was taken over, if anything could be.
    """
    if not release.manifest.profile:
        return None
    layout = _layout_of(release, task.segments)
    chosen = hashes & np.uint64(task.profiled_one_in - 1) == 0
    chosen[list(faults)] = False
    if not chosen.all():
        at = np.flatnonzero(chosen)
        rows = rows.take(at)
        outputs = {name: values[at] for name, values in outputs.items()}
    partial = reused is not None and not reused.scored.all()
    return profile_of(layout, release.contract, rows, outputs, partial=partial)


def _layout_of(release: Release, segments: tuple[str, ...]) -> ProfileLayout:
    """Return the layout of a release, made once for all chunks of this process."""
    key = release.digest, segments
    if key not in _LAYOUTS:
        columns = segment_columns(release.contract, segments)
        _LAYOUTS[key] = ProfileLayout(release.manifest.profile, columns)
    return _LAYOUTS[key]


def profile_of(
    layout: ProfileLayout,
    contract: Contract,
    rows: InputRows,
    outputs: Computed,
    *,
    partial: bool = False,
) -> Profile:
    """Count rows and their outputs in the bins of a layout.

    Args:
        layout: the bins, and what the segments are.
        contract: of the release.
        rows: as the model got them.
        outputs: of the same rows, by column.
        partial: whether other rows of theirs are not counted.
    """
    numbers = {
        **dict(numbers_of_inputs(rows, contract)),
        **dict(numbers_of_outputs(outputs, contract)),
    }
    segments = [
        Segment(column.name, value)
        for column in layout.segments
        for value in column.values
    ]
    places = [
        (len(column.values), column.places(numbers[column.name]))
        for column in layout.segments
    ]
    codes = codes_of(layout.bins, numbers)
    counts = {
        name: np.concatenate(
            list(_lines(bins, codes[name], numbers[name].shape, places))
        )
        for name, bins in layout.bins.items()
    }
    scores = {
        name: np.concatenate(list(_counts(score_codes(outputs[name]), SIZE, places)))
        for name in probabilities(contract)
    }
    items = {
        name: np.bincount(at, minlength=size)[None]
        for name, at, size in items_of(outputs, contract)
    }
    return Profile.of_counts(
        layout.digest, segments, counts, partial=partial, scores=scores, items=items
    )


def _lines(
    bins: Bins,
    codes: np.ndarray,
    shape: tuple[int, ...],
    places: list[tuple[int, np.ndarray]],
) -> Iterator[np.ndarray]:
    """Yield the counts of a column, of which a row may have several values."""
    if len(shape) == 2:
        places = [(size, np.repeat(place, shape[1])) for size, place in places]
    yield from _counts(codes, bins.size, places)


def _counts(
    codes: np.ndarray, size: int, places: list[tuple[int, np.ndarray]]
) -> Iterator[np.ndarray]:
    """Yield the counts of all rows, (1, bins), then of each column's segments."""
    yield np.bincount(codes, minlength=size)[None]
    for segments, place in places:
        there = (place >= 0) & (place < segments)
        at = place[there] * size + codes[there]
        yield np.bincount(at, minlength=segments * size).reshape(segments, size)
