"""Alerts for the tests: one of each kind, and receivers as a YAML declares them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from batch_assets.alerts.alert import Alert, Identity, Served
from batch_assets.spec.alerts import KINDS, AlertsSpec
from batch_assets_tests.listeners import Postbox

NOW = datetime(2026, 1, 6, 3, 12, tzinfo=UTC)
DAY = "2026-01-05"
VERSION = "2026-01-04-f819bec09793"
NEXT = {
    "run_failed": f"batch-assets run toy --day {DAY}",
    "gate_shut": f"batch-assets books toy --day {DAY}",
    "check_warned": f"batch-assets books toy --day {DAY}",
    "deadline_at_risk": f"batch-assets run toy --day {DAY}",
    "deadline_missed": f"batch-assets run toy --day {DAY}",
    "snapshot_stale": f"batch-assets run toy --day {DAY}",
    "sink_lags": "batch-assets sinks follow toy",
}

GATE_SHUT = Alert(
    kind="gate_shut",
    pipeline="toy",
    day=DAY,
    subject="quarantine_share_is_within_limit",
    summary="340,000 of 918,000 raw rows are quarantined",
    details="340,000 of 918,000 raw rows are quarantined. gates.max_quarantine_share "
    "moves it",
    numbers={"share": 0.37037, "limit": 0.01, "raw_rows": 918_000.0},
    served=Served(VERSION, "2026-01-04", 97_200.0),
    next_command=NEXT["gate_shut"],
    at=NOW,
)
ALERTS = {
    kind: replace(
        GATE_SHUT,
        kind=kind,
        subject="redis" if kind == "sink_lags" else f"the_{kind}",
        next_command=NEXT[kind],
    )
    for kind in KINDS
}
IDENTITY: Identity = GATE_SHUT.identity


def declared(*receivers: dict[str, Any] | str, **changes: Any) -> AlertsSpec:
    """Alerts as a YAML declares them; a receiver may be its kind alone."""
    listed = [{"kind": one} if isinstance(one, str) else one for one in receivers]
    return AlertsSpec.model_validate({"receivers": listed} | changes)


def by_mail(box: Postbox, **changes: Any) -> dict[str, Any]:
    """A receiver of e-mails over a server of the tests."""
    return {
        "kind": "email",
        "host": "127.0.0.1",
        "port": box.port,
        "security": "none",
        "sender": "batch-assets@example.org",
        "to": ["ada@example.org", "bob@example.org"],
    } | changes
