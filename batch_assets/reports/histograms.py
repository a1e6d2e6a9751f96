"""How the outputs of a night are distributed, beside the release's own rows.

Counts of all rows where the release has a reference for an output of numbers, and else of
the rows that were profiled, which tells kinds by their names. It reads no row: receipts hold the counts.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from batch_assets.lake.parts import Part
from batch_assets.lake.profiles import Profile
from batch_assets.lake.receipts import OutputSummary, PredictionsReceipt
from batch_assets.models.bins import Bins
from batch_assets.models.contract import Contract
from batch_assets.models.output_specs import Label, Ranking, VectorOutput
from batch_assets.models.reference import add_counts
from batch_assets.models.release import Manifest
from batch_assets.reports.facts import Histogram

# Kinds that are drawn by their names; the others are one.
KINDS = 10
OTHERS, MISSING = "others", "missing"


def histograms_of(
    parts: Sequence[Part[PredictionsReceipt]],
    profile: Profile | None,
    manifest: Manifest,
) -> tuple[Histogram, ...]:
    """Return a histogram of each output that the release can be compared in."""
    counts = profile.counts() if profile else {}
    found = []
    for name in manifest.contract.written_names:
        summaries = [part.receipt.outputs[name] for part in parts]
        reference, bins = manifest.reference.get(name), manifest.profile.get(name)
        named = bins is not None and bins.values and name in counts
        if (
            reference
            and not named
            and all(len(s.counts) == len(reference.counts) for s in summaries)
        ):
            tonight = add_counts([s.counts for s in summaries]) if summaries else []
            found.append(
                Histogram(
                    name,
                    reference.edges,
                    (),
                    tuple(tonight or [0] * len(reference.counts)),
                    reference.counts,
                    sum(s.rows for s in summaries),
                    mean=_mean(summaries),
                )
            )
        elif bins and name in counts:
            found.append(_of_profile(name, counts[name][0], bins, manifest.contract))
    return tuple(found)


def _mean(summaries: Sequence[OutputSummary]) -> float | None:
    rows = sum(one.rows for one in summaries)
    return sum(one.sum for one in summaries) / rows if rows else None


def _of_profile(
    name: str, counts: np.ndarray, bins: Bins, contract: Contract
) -> Histogram:
    of, words = _meant(name, contract)
    tonight, expected = counts, np.asarray(bins.counts)
    rows = int(counts.sum())
    if bins.values:
        names = [
            str(words[int(one)]) if 0 <= one < len(words) else f"{one:g}"
            for one in bins.values
        ]
        named, tonight, expected = _largest(
            [*names, OTHERS, MISSING], tonight, expected
        )
        return Histogram(
            name, (), named, tuple(tonight.tolist()), tuple(expected.tolist()), rows, of
        )
    # The last bin is of what is missing, and is shown where anything is.
    if not tonight[-1] and not expected[-1]:
        tonight, expected = tonight[:-1], expected[:-1]
    return Histogram(
        name,
        bins.edges,
        (),
        tuple(tonight.tolist()),
        tuple(expected.tolist()),
        rows,
        of,
    )


def _meant(name: str, contract: Contract) -> tuple[str, Sequence[str | int]]:
    """What a row of an output is counted by, and the names of its kinds."""
    for one in contract.outputs:
        if isinstance(one, Label) and one.name == name:
            return "class", one.classes
        if isinstance(one, VectorOutput) and one.name == name:
            return "length of the vector", ()
        if isinstance(one, Ranking) and one.name == name:
            return "item", contract.vocabularies[one.vocabulary]
        if isinstance(one, Ranking) and one.scores == name:
            return "score of the first item", ()
    return "value", ()


def _largest(
    names: Sequence[str], tonight: np.ndarray, expected: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """The kinds with the most rows, by their names, and all others as one."""

    def kept() -> Iterator[int]:
        kinds = np.arange(len(names) - 2)
        most = np.maximum(
            tonight[:-2] / max(tonight.sum(), 1), expected[:-2] / max(expected.sum(), 1)
        )
        yield from sorted(kinds[np.argsort(-most, kind="stable")][:KINDS].tolist())

    keep = list(kept())
    rest = [at for at in range(len(names) - 1) if at not in keep]
    groups = [[at] for at in keep] + [rest] + [[len(names) - 1]]
    labels = [*(names[at] for at in keep), OTHERS, MISSING]
    sums = [(int(tonight[g].sum()), int(expected[g].sum())) for g in groups]
    shown = [at for at, (new, old) in enumerate(sums) if at < len(keep) or new or old]
    return (
        tuple(labels[at] for at in shown),
        np.array([sums[at][0] for at in shown]),
        np.array([sums[at][1] for at in shown]),
    )
