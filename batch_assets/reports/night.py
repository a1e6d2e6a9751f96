"""Write the report of a night: gather, draw, and put one file where it is found.

<root>/reports/<pipeline>/<day>.html    replaced whole when it is made again
"""

from dataclasses import dataclass
from pathlib import Path

from batch_assets.reports.facts import NightFacts
from batch_assets.reports.gather import gather_night
from batch_assets.reports.page import page_of
from batch_assets.reports.pictures.of_night import NightPictures, draw_night
from batch_assets.spec import PipelineSpec
from batch_assets.storage import StoragePath, beside, put_file

# Where reports lie under a root.
REPORTS = "reports"


@dataclass(frozen=True)
class WrittenReport:
    """A report: the file, and what it shows."""

    path: StoragePath
    facts: NightFacts
    pictures: NightPictures


def report_path(root: StoragePath, pipeline: str, day: str) -> StoragePath:
    """Return where the report of a night lies, unless somebody wants it elsewhere."""
    return root / REPORTS / pipeline / f"{day}.html"


def write_report(
    root: StoragePath, spec: PipelineSpec, day: str, *, to: Path | None = None
) -> WrittenReport:
    """Write the report of a night, in place of an older one.

    Args:
        root: `<root>`.
        spec: the pipeline.
        day: the day.
        to: a file; where reports lie, if left out.

    Raises:
        LakeError: nothing of the day is in the lake.
    """
    facts = gather_night(root, spec, day)
    pictures = draw_night(facts)
    path = to or report_path(root, spec.name, day)
    made = beside(path)
    made.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.write_text(page_of(facts, pictures), encoding="utf-8")
        put_file(made, path)
    finally:
        made.unlink(missing_ok=True)
    return WrittenReport(path, facts, pictures)
