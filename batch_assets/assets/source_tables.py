"""The tables that a pipeline's sources read, as nodes that nothing here makes.

    <pipeline>/source[/<table>]                 of `source`
    <pipeline>/side_tables/<name>[/<table>]     of `side_tables`
    <pipeline>/outcomes_source[/<table>]        of `outcomes`

What another asset of the project gives is that asset, and no node more. A table that two of them read is one node, named by the first. No file is looked at.
"""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from batch_assets.assets.pipeline import Pipeline
from batch_assets.lake.sources import Source
from batch_assets.lake.sources.base import Origins, SourceTable
from batch_assets.spec import PipelineSpec

# Of each column, the columns of other assets that it is computed from.
Upstream = Mapping[str, list[dg.TableColumnDep]]


def build_source_tables(pipeline: Pipeline) -> list[dg.AssetSpec]:
    """Build a node for each table that the pipeline's sources read."""
    spec = pipeline.spec
    return [
        dg.AssetSpec(
            key,
            group_name=spec.name,
            kinds={table.format},
            description=f"What {spec.name} reads"
            + (f" as `{table.name}`" if table.name else "")
            + f": `{table.address}`. Others make it, so it can't be materialised here.",
            metadata={"dagster/uri": pipeline.address(table.address)},
        )
        for key, table in _nodes(spec).values()
        if not table.by_name
    ]


def source_keys(pipeline: Pipeline, sources: Sequence[Source]) -> list[dg.AssetKey]:
    """Return what these sources of the pipeline read and are behind, each once."""
    nodes = _nodes(pipeline.spec)
    keys = [nodes[_place(table)][0] for one in sources for table in one.read_from()]
    keys += [as_key(name) for one in sources for name in one.asset_names]
    return list(dict.fromkeys(keys))


def as_key(name: str) -> dg.AssetKey:
    """Return the key that a YAML names an asset of the project by."""
    return dg.AssetKey.from_user_string(name)


def from_source(pipeline: Pipeline, source: Source, origins: Origins) -> Upstream:
    """Return origins in a source's tables as columns of their nodes."""
    nodes = _nodes(pipeline.spec)
    keys = {table.name: nodes[_place(table)][0] for table in source.read_from()}
    return {
        column: list(
            # Two views of one query may be of the same file.
            dict.fromkeys(
                dg.TableColumnDep(keys[one.table], one.column) for one in of_column
            )
        )
        for column, of_column in origins.items()
    }


def in_words(origins: Origins) -> dict[str, list[str]]:
    """Return the same as `table.column`, for a reader."""
    return {
        column: [f"{one.table}.{one.column}".lstrip(".") for one in of_column]
        for column, of_column in origins.items()
    }


def _nodes(
    spec: PipelineSpec,
) -> dict[tuple[bool, str], tuple[dg.AssetKey, SourceTable]]:
    """The node of each address."""
    nodes: dict[tuple[bool, str], tuple[dg.AssetKey, SourceTable]] = {}
    for path, source in _places(spec):
        for table in source.read_from():
            key = dg.AssetKey([spec.name, *path, *([table.name] if table.name else [])])
            if table.by_name:
                key = as_key(table.address)
            nodes.setdefault(_place(table), (key, table))
    return nodes


def _place(table: SourceTable) -> tuple[bool, str]:
    # A file may be called as an asset is.
    return table.by_name, table.address


def _places(spec: PipelineSpec) -> Iterator[tuple[list[str], Source]]:
    yield ["source"], spec.source
    for name, source in spec.side_tables.items():
        yield ["side_tables", name], source
    if spec.outcomes:
        yield ["outcomes_source"], spec.outcomes.source
