"""`explain`: what stands behind what is served for a key."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batch_assets.cli.names import DAY, PIPELINE
from batch_assets.cli.options import as_json
from batch_assets.cli.pipelines import lake_of
from batch_assets.cli.printing import print_json
from batch_assets.root import data_root

if TYPE_CHECKING:
    from batch_assets.snapshots.provenance import Provenance


@click.command()
@click.argument("pipeline", type=PIPELINE)
@click.argument("key")
@click.option("--day", type=DAY, help="The day; of what is served if left out.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it as one page of HTML, too.",
)
@as_json
def explain(
    pipeline: str, key: str, day: str | None, out: Path | None, as_json: bool
) -> None:
    """What stands behind what is served of PIPELINE for KEY.

    The value and its version, the release and who approved it, the runs and the code, the
    books of the day, what the gates said, the row as the model got it, and what names the
    source's very bytes. Of a key that is not served: where its row ended, and why.
    """
    from batch_assets.models.registry import Registry
    from batch_assets.reports.explained import explained_page, sections_of
    from batch_assets.snapshots.provenance import explain_key
    from batch_assets.snapshots.store import SnapshotStore

    lake, root = lake_of(pipeline), data_root()
    found = explain_key(lake, Registry(root), SnapshotStore(root, pipeline), key, day)
    if out:
        out.write_text(explained_page(found), encoding="utf-8")
    if as_json:
        print_json(_json(found))
        return
    for section in sections_of(found):
        for number, line in enumerate(section.lines):
            click.echo(f"{'' if number else section.title:<9} {line}")


def _json(found: "Provenance") -> dict[str, Any]:
    served, release, judged = found.served, found.release, found.judged
    pages = {"shard": found.page, "day": found.day_page}
    return {
        "pipeline": found.pipeline,
        "key": found.key,
        "day": found.day,
        "fate": found.fate,
        "served": served
        and {
            "outputs": served.outputs,
            "version": served.manifest.version,
            "created_at": served.manifest.created_at.isoformat(),
            "is_served": served.is_served,
            "is_stale": served.manifest.is_stale,
            "is_fallback": served.is_fallback,
            "of_these_predictions": served.of_these_predictions,
            "published": served.published and served.published.model_dump(mode="json"),
            "overrides": [o.model_dump(mode="json") for o in served.manifest.overrides],
        },
        "row": found.row,
        "features": found.features,
        "source_row": found.source_row,
        "source": found.source,
        "steps": [vars(step) for step in found.steps],
        "release": release
        and {
            "name": release.name,
            "digest": release.digest,
            "contract": release.contract,
            "approvals": [event.model_dump(mode="json") for event in release.approvals],
        },
        "books": {
            "shard": found.shard,
            "shards": found.shards,
            "closed": found.books_close,
            "rows": {
                name: {side: total.rows for side, total in page.sides().items()}
                for name, page in pages.items()
            },
        },
        "gates": judged
        and {
            "judged_at": judged.judged_at.isoformat(),
            "predictions": judged.predictions,
            "limits": judged.limits.model_dump(mode="json"),
            "verdicts": [
                {
                    **vars(verdict),
                    "override": verdict.override
                    and verdict.override.model_dump(mode="json"),
                }
                for verdict in judged.verdicts
            ],
        },
        "notes": found.notes,
    }
