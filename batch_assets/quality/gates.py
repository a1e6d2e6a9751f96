"""The gates of a night, each a row of one table: what must hold of which asset's day.

The checks in Dagster show their verdicts; the scorer and the publisher ask for them
again, from the files, because nothing that happened upstream is taken on trust. The
table knows neither Dagster nor how a day is served.
"""

from dataclasses import replace

from batch_assets.errors import OverrideError
from batch_assets.lake.overrides import Overrides
from batch_assets.lake.reconciliation import Books
from batch_assets.lake.tables import Lake
from batch_assets.models.registry import Registry
from batch_assets.models.release import Manifest
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.judges import shares
from batch_assets.quality.judges.books import scoring_closes, validation_closes
from batch_assets.quality.judges.drift import prediction_drift
from batch_assets.quality.judges.nights import (
    features_like_before,
    not_a_night_again,
    outputs_like_before,
    segments_like_before,
)
from batch_assets.quality.judges.outputs import scores_in_range
from batch_assets.quality.judges.release import one_release
from batch_assets.quality.judges.reuse import carried_rows
from batch_assets.quality.judges.volume import volume
from batch_assets.quality.verdict import Gate, Verdict
from batch_assets.spec import GateLimits

NO_FIELD = "No field of the YAML moves it"
# Whose gates can be judged before a row is scored.
BEFORE_SCORING = ("raw_features", "validated_features", "quarantined_rows")
# The one gate that a night is held to while it scores, too.
DEAD_LETTERS = "dead_letter_share_is_within_limit"
LIMIT = "The limit is gates.{} in the pipeline's YAML"

LEARNED = (
    "What is usual is learned from the nights before. gates.drift in the pipeline's YAML "
    "says of a column whether it may `block`, `warn`, or is `off`."
)

# In the order in which they are judged.
GATES: tuple[Gate[DayEvidence], ...] = (
    Gate(
        name="volume_is_like_the_days_before",
        asset="raw_features",
        judge=volume,
        description="The day has about as many raw rows as the committed days before it.",
        moved_by=LIMIT.format("max_volume_change")
        + ", gates.volume_days how many days the median is over, and gates.volume "
        "whether it may `block`, `warn`, or is `off`",
        may_only_warn=True,
        overridable=True,
    ),
    Gate(
        name="raw_is_validated_plus_quarantined",
        asset="validated_features",
        judge=validation_closes,
        description="Raw = validated + quarantined in each shard, in counts and key "
        "checksums.",
        moved_by=f"{NO_FIELD}: materialise validated_features of the day again",
    ),
    Gate(
        name="quarantine_share_is_within_limit",
        asset="validated_features",
        judge=shares.quarantine_share,
        description="Few enough of the raw rows are in quarantine.",
        moved_by=f"{LIMIT.format('max_quarantine_share')}; the rows are in "
        "quarantined_rows, each with the rules that it breaks: mend the source, and run "
        "the day again",
        overridable=True,
    ),
    Gate(
        name="validated_is_scored_plus_carried_plus_dead",
        asset="predictions",
        judge=scoring_closes,
        description="Validated = scored + carried + dead in each shard, in counts and key "
        "checksums.",
        moved_by=f"{NO_FIELD}: materialise predictions of the day again",
    ),
    Gate(
        name=DEAD_LETTERS,
        asset="predictions",
        judge=shares.dead_letter_share,
        description="Few enough of the validated rows are dead letters.",
        moved_by=f"{LIMIT.format('max_dead_letter_share')}; the rows are in "
        "dead_letters, each with the reason: mend it, and run the day again",
        overridable=True,
        look="dead-letters list {pipeline} --day {day}",
    ),
    Gate(
        name="coverage_is_within_limit",
        asset="predictions",
        judge=shares.coverage,
        description="Enough of the raw rows are scored.",
        moved_by=LIMIT.format("min_coverage"),
        overridable=True,
    ),
    Gate(
        name="every_shard_is_of_the_day",
        asset="predictions",
        judge=shares.kept_shards,
        description="Every shard was scored, and none serves what an earlier night left "
        "(with `on_failed_shard: keep_previous`).",
        moved_by="Run the day again: what failed is tried again. "
        + LIMIT.format("max_kept_share"),
        may_only_warn=True,
    ),
    Gate(
        name="carried_rows_equal_their_rescoring",
        asset="predictions",
        judge=carried_rows,
        description="Rows that took over a prediction are what the model says of them "
        "now (with `incremental`).",
        moved_by="No limit of the YAML moves it; `incremental: false` scores every row",
        blocking=False,
        when=lambda spec: spec.incremental,
    ),
    Gate(
        name="one_approved_release_on_every_row",
        asset="predictions",
        judge=one_release,
        description="One approved release: the same digest in graph, registry, commit and "
        "rows.",
        moved_by=f"{NO_FIELD}: score the day again with a release approved for batch",
        look="release list",
    ),
    Gate(
        name="scores_are_finite_and_in_range",
        asset="predictions",
        judge=scores_in_range,
        description="Every output is finite and in the range that the release declares.",
        moved_by=f"{NO_FIELD}: the min and max of an output are in the contract: write a "
        "release with others",
    ),
    Gate(
        name="predictions_are_distributed_like_the_reference",
        asset="predictions",
        judge=prediction_drift,
        description="The outputs are distributed like those that the release was approved "
        "on.",
        moved_by="PSI compares the day's outputs with the release's reference. Its limits "
        "are gates.warn_psi and gates.max_psi in the pipeline's YAML, or more where the "
        "release's own days (reference_days) or chance are further off than that",
        may_only_warn=True,
        overridable=True,
    ),
    Gate(
        name="outputs_are_like_the_nights_before",
        asset="predictions",
        judge=outputs_like_before,
        description="Each output is distributed as on the 28 nights before, and as on the "
        "same weekday.",
        moved_by=LEARNED + " An output stops a night from gates.max_psi on",
        may_only_warn=True,
        overridable=True,
    ),
    Gate(
        name="features_are_like_the_nights_before",
        asset="predictions",
        judge=features_like_before,
        description="Each feature and input is distributed as on the nights before, and "
        "none is the same for every row that never was.",
        moved_by=LEARNED + " No feature warns below gates.warn_psi",
        may_only_warn=True,
        overridable=True,
    ),
    Gate(
        name="segments_are_like_the_nights_before",
        asset="predictions",
        judge=segments_like_before,
        description="Each segment ranks among the rows of the day where it usually does.",
        moved_by=LEARNED + " `segments` in the pipeline's YAML says what they are",
        may_only_warn=True,
        overridable=True,
    ),
    Gate(
        name="the_day_is_no_night_before_again",
        asset="predictions",
        judge=not_a_night_again,
        description="Not every feature is distributed exactly as on a night before.",
        moved_by="Look at what the source gave for the day. gates.repeated_day in the "
        "pipeline's YAML says whether it may `block`, `warn`, or is `off`",
        may_only_warn=True,
        overridable=True,
    ),
)


def after_validation(lake: Lake, books: Books, limits: GateLimits) -> list[Verdict]:
    """Judge what must hold of a day before it is scored: all that may stop it.

    A gate that a person has overridden does not.

    Args:
        lake: the pipeline's tables.
        books: of the day, up to its validation.
        limits: of the pipeline.
    """
    evidence = DayEvidence(
        books.day,
        limits,
        books=lambda: books,
        rows_by_day=lake.raw_features.rows_by_day,
    )
    overrides = Overrides(lake.folder).in_force(books.day)
    return [
        gate.verdict(evidence).overridden(overrides)
        for gate in GATES
        if gate.blocking and gate.asset in BEFORE_SCORING
    ]


def after_scoring(
    lake: Lake, registry: Registry, manifest: Manifest, day: str, limits: GateLimits
) -> list[Verdict]:
    """Judge what must hold of a day before it is served: all that may stop it.

    A gate that a person has overridden does not.

    Args:
        lake: the pipeline's tables.
        registry: the models.
        manifest: of the release that scored the day, its bytes verified.
        day: the day.
        limits: of the pipeline.
    """
    evidence = DayEvidence.of_day(lake, registry, day, limits)
    evidence = replace(evidence, manifest=lambda: manifest)
    overrides = Overrides(lake.folder).in_force(day)
    return [
        gate.verdict(evidence).overridden(overrides) for gate in GATES if gate.blocking
    ]


def most_dead_letters(lake: Lake, day: str, rows: int, limits: GateLimits) -> int:
    """Return how many rows of a day may be dead letters before it is stopped.

    All of them, where a person has overridden the gate.

    Args:
        lake: the pipeline's tables.
        day: the day.
        rows: of it, that are scored.
        limits: of the pipeline.
    """
    if DEAD_LETTERS in Overrides(lake.folder).in_force(day):
        return rows
    return shares.most_dead_letters(rows, limits)


def must_be_overridable(name: str) -> None:
    """Refuse a gate that no person may let a day pass.

    Raises:
        OverrideError: it proves something, or there is none of that name.
    """
    if any(gate.name == name and gate.overridable for gate in GATES):
        return
    known = any(gate.name == name for gate in GATES)
    what = "can't be overridden: it proves, or only warns" if known else "is no gate"
    those = ", ".join(gate.name for gate in GATES if gate.overridable)
    msg = f"'{name}' {what}. Those that can be are {those}. Nothing was changed"
    raise OverrideError(msg)
