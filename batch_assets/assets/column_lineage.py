"""Which columns the columns of a pipeline's tables are computed from.

It is Dagster's own metadata. What the release makes of its inputs is not known column by
column: an output depends on each.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from batch_assets.assets.pipeline import Pipeline
from batch_assets.assets.source_tables import Upstream, source_keys
from batch_assets.models.contract import Contract

# Of more, the event of every night would be megabytes.
MOST_DEPS = 20_000


def lineage_metadata(upstream: Upstream) -> dict[str, Any]:
    """Return what the catalog knows of the columns' origins, unless it is too much."""
    if not upstream or sum(map(len, upstream.values())) > MOST_DEPS:
        return {}
    lineage = dg.TableColumnLineage({name: list(of) for name, of in upstream.items()})
    return {"dagster/column_lineage": lineage}


def column_lineage(
    asset: str, columns: Iterable[str] | Mapping[str, Iterable[str]]
) -> dict[str, Any]:
    """Return the metadata by which an asset downstream says where its columns are from.

    Args:
        asset: the key of what it was made of, as `churn/predictions`.
        columns: those that are taken over; or, of each column, those that it is computed
            from.
    """
    if not isinstance(columns, Mapping):
        columns = {column: [column] for column in columns}
    key = dg.AssetKey.from_user_string(asset)
    return lineage_metadata(
        {
            column: [dg.TableColumnDep(key, one) for one in computed_from]
            for column, computed_from in columns.items()
        }
    )


def same_columns(asset: dg.AssetKey, columns: Iterable[str]) -> Upstream:
    """Return the origin of columns that are each taken over from an asset's."""
    return {column: [dg.TableColumnDep(asset, column)] for column in columns}


def of_raw_rows(pipeline: Pipeline, contract: Contract) -> Upstream:
    """Return the origin of the columns of rows that were validated or put aside.

    Rows that are pinned lie in the source, and nothing but their keys in `raw_features`.
    """
    names = contract.raw_schema().names
    source = pipeline.spec.source
    if not source.pins:
        return same_columns(pipeline.key("raw_features"), names)
    table, *_ = source_keys(pipeline, [source])
    return same_columns(table, names)


def of_snapshot(pipeline: Pipeline, contract: Contract) -> Upstream:
    """Return the origin of what a reader of a snapshot gets."""
    names = [contract.key.name, *contract.written_names]
    return same_columns(pipeline.key("predictions"), names)


def of_predictions(pipeline: Pipeline, contract: Contract) -> Upstream:
    """Return the origin of the columns of predictions: all that the release reads."""
    validated = pipeline.key("validated_features")
    key, *read = [
        dg.TableColumnDep(validated, name) for name in contract.feature_schema().names
    ]
    return {contract.key.name: [key], **dict.fromkeys(contract.written_names, read)}
