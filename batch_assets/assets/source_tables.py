"""The tables that a pipeline's sources read, as nodes that nothing here makes.

    <pipeline>/source[/<table>]                 of `source`
    <pipeline>/side_tables/<name>[/<table>]     of `side_tables`
    <pipeline>/outcomes_source[/<table>]        of `outcomes`

A table that two of them read is one node, named by the first. No file is looked at.
"""

from collections.abc import Iterable, Iterator, Mapping

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
    ]


def source_keys(pipeline: Pipeline, sources: Iterable[Source]) -> list[dg.AssetKey]:
    """Return the nodes of what these sources of the pipeline read, each once."""
    nodes = _nodes(pipeline.spec)
    addresses = [table.address for one in sources for table in one.read_from()]
    return [nodes[address][0] for address in dict.fromkeys(addresses)]


def from_source(pipeline: Pipeline, source: Source, origins: Origins) -> Upstream:
    """Return origins in a source's tables as columns of their nodes."""
    nodes = _nodes(pipeline.spec)
    keys = {table.name: nodes[table.address][0] for table in source.read_from()}
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


def _nodes(spec: PipelineSpec) -> dict[str, tuple[dg.AssetKey, SourceTable]]:
    """The node of each address."""
    nodes: dict[str, tuple[dg.AssetKey, SourceTable]] = {}
    for path, source in _places(spec):
        for table in source.read_from():
            key = dg.AssetKey([spec.name, *path, *([table.name] if table.name else [])])
            nodes.setdefault(table.address, (key, table))
    return nodes


def _places(spec: PipelineSpec) -> Iterator[tuple[list[str], Source]]:
    yield ["source"], spec.source
    for name, source in spec.side_tables.items():
        yield ["side_tables", name], source
    if spec.outcomes:
        yield ["outcomes_source"], spec.outcomes.source
