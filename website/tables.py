"""`tables.md`: the Delta tables of a pipeline, with their columns."""

import pyarrow as pa

from batch_assets.assets.columns import ADDED
from batch_assets.lake.tables import Lake
from batch_assets.storage import storage_path
from website.markdown import table

# Beside the contract's columns: which others a table of rows has.
OF_ROWS = {
    "raw_features": (
        "the source's rows of a day, as they came, in UTF-8; of a pinned source its key alone",
        ("day", "shard"),
    ),
    "validated_features": (
        "the rows that keep every rule, in the contract's types",
        ("fingerprint", "day", "shard"),
    ),
    "quarantined_rows": (
        "the rows that break a rule, whole",
        ("rules", "day", "shard"),
    ),
    "predictions": (
        "the key, the outputs, and the release that gave them",
        ("model_name", "model_version", "day", "shard"),
    ),
    "dead_letters": (
        "the rows that the model could not score, whole",
        ("stage", "reason", "model_name", "model_version", "day", "shard"),
    ),
    "outcomes": ("what really happened, by key", ("day", "shard")),
}
OF_METRICS = {
    "profile_metrics": "how each column's values lie in its bins, whole and by segment",
    "drift_metrics": "how far each column is from the reference and from the nights before",
    "outcome_metrics": "how good the predictions were, or are estimated to be",
    "gate_verdicts": "what each gate said of a day, with its limits, and who overrode it",
    "stage_metrics": "how long each stage of a night took",
    "estimate_metrics": "when a night was expected to be served, and when it was",
    "plan_metrics": "how long a night would have been planned to take, and took",
}


def tables() -> str:
    """Return the page of the tables."""
    parts = [
        "# Tables\n\nEach is a Delta table in `<root>/lake/<pipeline>/`, which DuckDB, Polars, "
        "Spark and others read. Tables of rows are partitioned by day and shard, and have the "
        "columns of the release's contract beside those that are named here. Tables of "
        "metrics are partitioned by day.",
        "## Tables of rows\n\n"
        + table(
            ["table", "rows", "columns beside the contract's"],
            (
                [f"`{name}`", what, ", ".join(f"`{column}`" for column in added)]
                for name, (what, added) in OF_ROWS.items()
            ),
        ),
        table(
            ["column", "meaning"],
            ([f"`{name}`", note.text] for name, note in ADDED.items()),
        ),
        "## Tables of metrics",
    ]
    lake = Lake(storage_path("root"), "pipeline")
    for name, what in OF_METRICS.items():
        schema: pa.Schema = getattr(lake, name).schema
        columns = ([f"`{field.name}`", f"`{field.type}`"] for field in schema)
        parts.append(
            f"### {name}\n\n{what[0].upper()}{what[1:]}.\n\n"
            + table(["column", "type"], columns)
        )
    return "\n\n".join(parts)
