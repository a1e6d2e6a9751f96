"""`metrics.md`: what the HTTP service tells Prometheus."""

from prometheus_client.metrics import MetricWrapperBase

from batch_assets.online.metrics import Metrics
from website.markdown import table


def metrics() -> str:
    """Return the page of the service's metrics."""
    found = [
        each for each in vars(Metrics()).values() if isinstance(each, MetricWrapperBase)
    ]
    return (
        "# Metrics\n\nWhat `batch-assets serve` answers at `/metrics`, beside those of the "
        "process. What to watch is in [online.md](../online.md).\n\n"
        + table(["metric", "type", "labels", "meaning"], map(_row, found))
    )


def _row(metric: MetricWrapperBase) -> list[str]:
    (about,) = metric.describe()
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)
    name = f"{about.name}_total" if about.type == "counter" else about.name
    return [f"`{name}`", about.type, labels, about.documentation]
