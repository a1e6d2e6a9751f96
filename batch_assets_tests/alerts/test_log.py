import logging

import pytest

from batch_assets.alerts.alert import Message
from batch_assets.alerts.receivers.factory import open_receiver
from batch_assets_tests.told import ALERTS, declared

(LOG,) = declared("log").receivers


@pytest.mark.parametrize("kind", ALERTS)
def test_an_alert_is_one_record_that_is_shown_if_nobody_says_otherwise(kind, caplog):
    open_receiver(LOG).send(Message("msg_1", "raised", ALERTS[kind]))

    (record,) = caplog.records
    assert record.levelno == (
        logging.WARNING
        if kind in ("check_warned", "deadline_at_risk")
        else logging.ERROR
    )
    for part in (ALERTS[kind].subject, "918,000 rows", ALERTS[kind].next_command):
        assert part in record.getMessage()


def test_what_is_over_is_no_error(caplog):
    open_receiver(LOG).send(Message("msg_1", "resolved", ALERTS["gate_shut"]))

    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "batch_assets.alerts")
