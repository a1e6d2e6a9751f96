"""All pictures of a night, for the page and for the catalog alike."""

from dataclasses import dataclass

from batch_assets.reports.facts import NightFacts
from batch_assets.reports.pictures.curve_pictures import draw_reliability, draw_sweep
from batch_assets.reports.pictures.drift_picture import draw_drift
from batch_assets.reports.pictures.flow_picture import draw_flow
from batch_assets.reports.pictures.reasons_picture import draw_reasons
from batch_assets.reports.pictures.scores_picture import draw_scores
from batch_assets.reports.pictures.style import AMBER, RED, Picture
from batch_assets.reports.pictures.time_picture import draw_times

# Of a model with more outputs, the others are named.
MOST_OUTPUTS = 6


@dataclass(frozen=True)
class NightPictures:
    """The pictures of a night; None or none where there is nothing to draw."""

    flow: Picture
    scores: tuple[Picture, ...]
    drift: tuple[Picture, ...]
    quarantine: Picture | None
    dead: Picture | None
    reliability: Picture | None
    sweep: Picture | None
    times: Picture | None


def draw_night(facts: NightFacts) -> NightPictures:
    """Draw all that there is to draw of a night."""
    quarantined, dead, rightness = facts.quarantined, facts.dead, facts.rightness
    return NightPictures(
        flow=draw_flow(facts.flow),
        scores=tuple(draw_scores(one) for one in facts.histograms[:MOST_OUTPUTS]),
        drift=tuple(
            draw_drift(one, facts.day) for one in facts.drift.outputs[:MOST_OUTPUTS]
        ),
        quarantine=(
            draw_reasons("quarantine", quarantined, AMBER)
            if quarantined.reasons
            else None
        ),
        dead=draw_reasons("dead", dead, RED) if dead.reasons else None,
        reliability=draw_reliability(rightness.curve) if rightness.curve else None,
        sweep=draw_sweep(facts.sweep) if facts.sweep else None,
        times=draw_times(facts.times) if facts.times else None,
    )
