"""`release import`: a release from a model that another registry keeps."""

from pathlib import Path
from typing import Any

import click

from batch_assets.cli.new_release import offer
from batch_assets.cli.options import as_json


@click.command("import")
@click.argument("uri")
@click.option(
    "--key",
    required=True,
    metavar="NAME:TYPE",
    help="Who is scored, which no signature says: customer_id:int64, or :string.",
)
@click.option("--name", help="Of the release; the registered model's if left out.")
@click.option(
    "--frame",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Parquet or CSV of rows as it was trained on; the golden rows are of them.",
)
@click.option("--output", "outputs", multiple=True, help="What it gives, by name.")
@click.option("--tracking-uri", help="MLflow's server or store.")
@click.option("--text", help="The column that a transformer reads.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder to write; data/releases/NAME of the project if left out.",
)
@click.option("--yes", is_flag=True, help="Write without asking.")
@as_json
def release_import(
    uri: str,
    key: str,
    name: str | None,
    frame: Path | None,
    outputs: tuple[str, ...],
    tracking_uri: str | None,
    text: str | None,
    out: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Write a release from the model at URI, after showing its contract.

    URI is mlflow:/NAME/VERSION, models:/NAME@ALIAS, runs:/RUN/PATH, a folder with a file
    MLmodel, or a folder with a transformer, as Hugging Face lays it out.
    """
    from batch_assets.training.mlflow_models import draft_from_mlflow
    from batch_assets.training.transformer_folders import (
        draft_from_transformer,
        is_transformer,
    )

    rows = _read(frame) if frame else None
    if is_transformer(Path(uri)):
        draft = draft_from_transformer(
            Path(uri),
            key=_key(key),
            text=_given(text, "--text"),
            frame=_given(rows, "--frame"),
            name=_given(name, "--name"),
        )
    else:
        draft = draft_from_mlflow(
            uri,
            key=_key(key),
            name=name,
            frame=rows,
            outputs=outputs,
            tracking_uri=tracking_uri,
        )
    offer(draft, out, yes=yes, as_json=as_json)


def _given(value: Any, option: str) -> Any:
    if value is None:
        raise click.MissingParameter(param_hint=option, param_type="option")
    return value


def _key(text: str) -> Any:
    from batch_assets.models.contract import KEY_TYPES, KeySpec

    name, _, dtype = text.rpartition(":")
    if not name or dtype not in KEY_TYPES:
        msg = f"'{text}' is no NAME:TYPE; a type is {' or '.join(KEY_TYPES)}"
        raise click.BadParameter(msg, param_hint="--key")
    return KeySpec.model_validate({"name": name, "dtype": dtype})


def _read(path: Path) -> Any:
    import polars as pl

    return pl.read_csv(path) if path.suffix == ".csv" else pl.read_parquet(path)
