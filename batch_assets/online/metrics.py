"""What Prometheus is told of the service. It knows no request and no model."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from batch_assets.online.batcher import Batch

PREFIX = "batch_assets_"
# Seconds: a lookup takes a tenth of a millisecond, a batch of a heavy model a second.
SECONDS = (
    *(0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.0007, 0.001, 0.002, 0.005),
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.requests = self._counter(
            "requests", "Requests, by route and status.", "route", "status"
        )
        self.request_seconds = self._histogram(
            "request_seconds",
            "From a request's arrival in the app to the head of its answer.",
            SECONDS,
            "route",
        )
        self.keys = self._counter(
            "keys", "Keys: found (true or false), or fallback.", "pipeline", "found"
        )
        self.rows = self._counter(
            "rows",
            "Rows sent to be scored: scored, bad (against a rule), faulty (the model has "
            "no answer), failed (no row's fault), refused (no room), gone (the client).",
            "pipeline",
            "outcome",
        )
        self.batch_rows = self._histogram(
            "batch_rows", "Rows of a batch of the model.", ROWS, "pipeline"
        )
        self.batch_seconds = self._histogram(
            "batch_seconds", "From a batch to its answers.", SECONDS, "pipeline"
        )
        self.wait_seconds = self._histogram(
            "wait_seconds",
            "How long the first row of a batch waited.",
            SECONDS,
            "pipeline",
        )
        self.waiting_rows = self._gauge(
            "waiting_rows", "Rows that wait now.", "pipeline"
        )
        self.scores = self._gauge(
            "scores",
            "1 if a release scores rows, 0 if none may.",
            "pipeline",
            "release",
        )
        self.snapshot = self._gauge(
            "snapshot_info", "1 for what is served.", "pipeline", "version", "release"
        )
        self.snapshot_age = self._gauge(
            "snapshot_age_seconds", "Since the version was made.", "pipeline"
        )
        self.snapshot_stale = self._gauge(
            "snapshot_is_stale",
            "1 if the version is older than it should be.",
            "pipeline",
        )
        self.snapshot_problem = self._gauge(
            "snapshot_has_problem",
            "1 if another version should be served, and can't be trusted.",
            "pipeline",
        )

    def batches_of(self, pipeline: str) -> Callable[[Batch], None]:
        """Return what is to be called with each batch of a pipeline."""

        def observe(batch: Batch) -> None:
            self.batch_rows.labels(pipeline).observe(batch.items)
            self.batch_seconds.labels(pipeline).observe(batch.seconds)
            self.wait_seconds.labels(pipeline).observe(batch.waited)

        return observe

    def text(self) -> bytes:
        """Return all of them, as Prometheus reads them."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, text, labels, registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            PREFIX + name, text, labels, registry=self._registry, buckets=buckets
        )
