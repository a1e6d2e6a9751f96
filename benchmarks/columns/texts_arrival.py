"""The same, but as rows arrive: as many to a batch as there would be of the longest."""

from batch_assets.scoring.scorer import Scorer
from benchmarks.columns.sequences_arrival import as_given
from benchmarks.columns.sequences_night import measure

if __name__ == "__main__":
    Scorer._in_order = as_given  # type: ignore[method-assign]
    measure()
