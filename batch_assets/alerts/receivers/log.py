"""The log of the process that noticed: of Dagster's daemon, or of the command line."""

import logging

from batch_assets.alerts.alert import Message
from batch_assets.spec.alerts import LogReceiver

log = logging.getLogger("batch_assets.alerts")

WARNINGS = ("check_warned", "deadline_at_risk")


class LogLines:
    """Writes each message as one record of several lines."""

    def send(self, message: Message) -> None:
        """Write it; as a warning at least, which Python shows if nobody says otherwise."""
        warns = message.state != "raised" or message.alert.kind in WARNINGS
        level = logging.WARNING if warns else logging.ERROR
        log.log(level, "%s\n%s", message.headline, message.text)


def open_receiver(_: LogReceiver) -> LogLines:
    return LogLines()
