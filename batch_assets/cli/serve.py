"""`serve`: lookups and scores over HTTP."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from batch_assets.cli.names import PIPELINE
from batch_assets.cli.pipelines import snapshots_of
from batch_assets.errors import ConfigError
from batch_assets.root import data_root

if TYPE_CHECKING:
    from batch_assets.online.access import Tls

FILE = click.Path(path_type=Path)


@click.command()
@click.argument(
    "pipelines", nargs=-1, required=True, type=PIPELINE, metavar="PIPELINE..."
)
@click.option("--host", default="127.0.0.1", help="Where to listen; 127.0.0.1.")
@click.option("--port", default=8000, help="8000; 0 takes a free one.")
@click.option(
    "--max-batch-size",
    type=click.IntRange(1),
    default=64,
    help="Rows that the model gets at once; 64.",
)
@click.option(
    "--max-wait-ms",
    type=click.FloatRange(0, 60_000),
    default=5.0,
    help="How long a row waits for others while the model is free; 5.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(1),
    default=1024,
    help="Rows that may wait; 1024.",
)
@click.option(
    "--max-seconds",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    help="How long the model may take over a batch; 10.",
)
@click.option(
    "--token-env",
    metavar="VARIABLE",
    help="The environment variable with the token that clients must send.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0),
    help="Requests a second of a client; 0 for any number. 1,000, or any on 127.0.0.1.",
)
@click.option("--tls-cert", type=FILE, help="The service's certificate, in PEM.")
@click.option("--tls-key", type=FILE, help="Its key, in PEM.")
@click.option(
    "--tls-client-ca", type=FILE, help="Whose clients may ask: an authority, in PEM."
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
def serve(
    pipelines: tuple[str, ...],
    host: str,
    port: int,
    max_batch_size: int,
    max_wait_ms: float,
    max_queue: int,
    max_seconds: float,
    token_env: str | None,
    rate: float | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    device: str,
) -> None:
    """Look keys of PIPELINE up over HTTP, and score rows that the night did not cover."""
    try:
        from batch_assets.online.server import bind
        from batch_assets.online.server import serve as serve_http
    except ModuleNotFoundError as error:
        msg = f"{error.name} is not installed: pip install 'batch-assets[serve]'"
        raise ConfigError(msg) from error
    from batch_assets.online.access import Access
    from batch_assets.online.metrics import Metrics
    from batch_assets.online.pipelines import Served
    from batch_assets.online.scoring import Limits
    from batch_assets.scoring.device import find_device

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    for name in pipelines:
        snapshots_of(name)
    tls = _tls(tls_cert, tls_key, tls_client_ca)
    listening = bind(host, port)
    address, number = listening.getsockname()[:2]
    access = Access.of(address, token_env, rate, tls)
    scores_on = find_device(device, batch_rows=str(max_batch_size))
    limits = Limits(max_batch_size, max_wait_ms, max_queue, max_seconds)
    metrics = Metrics()
    served = [
        Served(data_root(), name, scores_on, limits, metrics.batches_of(name))
        for name in dict.fromkeys(pipelines)
    ]
    click.echo(f"{'https' if tls else 'http'}://{address}:{number}")
    serve_http(served, metrics, listening, access)


def _tls(
    certificate: Path | None, key: Path | None, client_ca: Path | None
) -> "Tls | None":
    from batch_assets.online.access import Tls

    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        msg = "--tls-cert and --tls-key go together, and --tls-client-ca with them"
        raise ConfigError(msg)
    return Tls(certificate, key, client_ca)
