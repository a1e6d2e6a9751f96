"""Why a step of a run failed: in this project's words, where it has any."""

from typing import Protocol

from batch_assets import errors
from batch_assets.errors import GateError, ReleaseError

INTERRUPTED = "DagsterExecutionInterruptedError"
CHECK_FAILED = "DagsterAssetCheckFailedError"


class StepError(Protocol):
    """An error as Dagster keeps it with a step: texts, and what caused it."""

    @property
    def message(self) -> str: ...
    @property
    def cls_name(self) -> str | None: ...
    @property
    def cause(self) -> "StepError | None": ...


def is_failed_check(error: StepError) -> bool:
    """Tell whether a blocking check has stopped the step, which says so itself."""
    return error.cls_name == CHECK_FAILED


def is_interrupted(error: StepError) -> bool:
    """Tell whether a signal ended the step: SIGINT, or SIGTERM, which Dagster takes for it."""
    return INTERRUPTED in error.message


def reason_of(step: str, error: StepError) -> str:
    """Return what a step raised: what this project says, else whatever began it all."""
    if is_interrupted(error):
        _, _, note = error.message.strip().partition("\n")
        return f"interrupted in {step}. {note or 'Run the day again.'}"
    chain = _chain(error)
    own = [e for e in chain if e.message.startswith(f"{errors.__name__}.")]
    message = (own or chain[-1:])[0].message.strip()
    return message.partition(": ")[2] if own else message


def gate_error_of(error: StepError) -> str | None:
    """Return what a GateError says, if that is what a step raised."""
    found = [e.message for e in _chain(error) if e.cls_name == GateError.__name__]
    return found[0] if found else None


def is_of_release(error: StepError) -> bool:
    """Tell whether a step could not use the release, whichever step it was."""
    kinds = (getattr(errors, e.cls_name or "", object) for e in _chain(error))
    return any(issubclass(kind, ReleaseError) for kind in kinds)


def _chain(error: StepError) -> list[StepError]:
    chain = [error]
    while (cause := chain[-1].cause) is not None:
        chain.append(cause)
    return chain
