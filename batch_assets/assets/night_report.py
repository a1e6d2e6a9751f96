"""`night_report`: a night as one page, and its pictures in the catalog."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from batch_assets.assets.night_pictures import shown
from batch_assets.assets.partitions import day_of, for_each_day
from batch_assets.assets.pipeline import Pipeline
from batch_assets.assets.table_metadata import in_order
from batch_assets.resources import StorageResource
from batch_assets.storage import is_local

if TYPE_CHECKING:
    from batch_assets.reports.night import WrittenReport


def build_night_report(pipeline: Pipeline) -> dg.AssetsDefinition:
    spec = pipeline.spec

    @dg.asset(
        **pipeline.look("night_report", "html"),
        deps=[pipeline.key("serving_snapshot")],
    )
    @for_each_day
    def night_report(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> dg.MaterializeResult:
        """The report of a night: one page that opens without a server or a network.

        It is made from what the night left on disk, after it is served, and changes none
        of it. Of a night that was stopped, `batch-assets report` makes it.
        """
        from batch_assets.reports.night import write_report

        written = write_report(storage.path, spec, day_of(context))
        return dg.MaterializeResult(metadata=in_order(_metadata(written)))

    return night_report


def _metadata(written: "WrittenReport") -> dict[str, Any]:
    facts, path, pictures = written.facts, written.path, written.pictures
    link = dg.MetadataValue.path if is_local(path) else dg.MetadataValue.url
    return {
        "dagster/uri": str(path),
        "report": link(str(path)),
        "headline": facts.headline.title,
        "books": facts.flow.words,
        "books_add_up": facts.flow.adds_up,
        # Those of a single table are with that table.
        **shown([pictures.flow, pictures.times, pictures.reliability, *pictures.drift]),
    }
