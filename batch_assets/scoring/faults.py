"""Why a model has no outputs for some rows: it raised, was late, or ended its process.

None of it stops a night by itself. It knows neither threads nor processes.
"""


class FaultError(Exception):
    """The model has no outputs for these rows; the message is the reason.

    It is not in the tree of `errors.py`: no fault stops a night by itself.
    """


class LateError(FaultError):
    """The model gave no answer in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"TimeoutError: no answer within {seconds:,.1f} s")


def reason_of(error: BaseException) -> str:
    """Return what an error says, as it stands beside a row in dead letters."""
    return f"{type(error).__name__}: {error}"
