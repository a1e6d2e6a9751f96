"""`sweep`: how many rows a model should get at once."""

from typing import TYPE_CHECKING

import click

from batch_assets.cli.names import MODEL
from batch_assets.cli.options import as_json
from batch_assets.cli.printing import print_json, print_table, say
from batch_assets.root import data_root

if TYPE_CHECKING:
    from batch_assets.scoring.sweep_results import Point, Sweep, WorkerPoint


@click.command()
@click.argument("model", type=MODEL)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "tf32", "bfloat16", "float16"]),
    default="float32",
)
@click.option("--compile", is_flag=True, help="Of the model as compiled code.")
@click.option(
    "--to-the-edge",
    is_flag=True,
    help="Go on until memory ends, instead of ending where more rows bring nothing and "
    "after a minute.",
)
@as_json
def sweep(
    model: str,
    device: str,
    precision: str,
    compile: bool,
    to_the_edge: bool,
    as_json: bool,
) -> None:
    """Measure how many rows MODEL should get at once; nights on auto use it."""
    from batch_assets.models.registry import Registry
    from batch_assets.resources import GpuResource
    from batch_assets.scoring.engines.local import LocalEngine
    from batch_assets.scoring.sweep import Effort
    from batch_assets.scoring.sweep import sweep as measure
    from batch_assets.scoring.sweep_results import Sweeps
    from batch_assets.scoring.worker_sweep import with_workers

    release = Registry(data_root()).resolve(model)
    gpu = GpuResource(device=device, precision=precision, compile=compile)
    with gpu.reserve(data_root()) as reserved:
        say(
            f"{release.name} {release.short} on {reserved.name} in "
            f"{reserved.computes_in}",
            as_json,
        )
        effort = Effort(seconds=None) if to_the_edge else Effort()
        workers = LocalEngine(reserved).workers
        measured = measure(release, reserved, workers, effort, tried=_print_point)
        measured = with_workers(
            measured, release, reserved, Effort(), tried=_print_workers
        )
    path = Sweeps(data_root()).keep(measured)
    if as_json:
        print_json({"sweep": measured, "knee": measured.knee, "path": str(path)})
    else:
        _print_sweep(measured)


def _print_point(point: "Point") -> None:
    rows, rate = point.batch_rows, point.rows_per_second
    click.echo(f"{rows:>9,} rows a batch {rate:>12,.0f} rows/s", err=True)


def _print_workers(point: "WorkerPoint") -> None:
    count, rate = point.workers, point.rows_per_second
    click.echo(f"{count:>9,} workers      {rate:>12,.0f} rows/s", err=True)


def _print_sweep(sweep: "Sweep") -> None:
    print_table(
        ["rows a batch", "rows/s", "MiB", ""],
        [
            [
                f"{point.batch_rows:,}",
                f"{point.rows_per_second:,.0f}",
                "-" if point.memory_mb is None else f"{point.memory_mb:,.0f}",
                "knee" if point == sweep.knee else "",
            ]
            for point in sweep.points
        ],
    )
    click.echo(f"{sweep.edge}; nights on auto give it {sweep.knee.batch_rows:,} rows")
    if sweep.best_workers:
        click.echo(
            f"whole chunks are nearly as fast as can be from {sweep.best_workers} "
            "workers on: so many a night takes"
        )
