"""The tree of what can go wrong. It knows nothing of where an error is raised.

    BatchAssetsError
    ├── PipelineError            a defs.yaml, or a command that names no pipeline
    ├── ConfigError              a setting of this machine: root, device, precision
    │   └── DeviceError          the device asked for is not there
    ├── StorageError             what holds <root> does not answer, refuses, or lies
    │   └── LostRowsError        a file that a table's log names is gone or damaged
    ├── SourceError              the source can't be read
    │   ├── EmptySourceError     the source has no rows for the day
    │   └── NoHistoryError       the source tells nothing of a day that is over
    ├── ContractError            a column is missing, extra or retyped
    ├── ReleaseError             a release can't be used
    │   ├── UnknownReleaseError  no such name or digest
    │   ├── TamperedReleaseError its bytes are not those that were registered
    │   ├── UnsignedError        no key that the project trusts has signed it
    │   ├── UnapprovedError      nobody approved it for the channel
    │   ├── RevokedError         an approval was taken back, or has run out
    │   └── GoldenBatchError     it does not reproduce its own golden batch
    ├── EngineError              an engine is not there, or has lost its workers
    ├── ScoringError             the model can't be run over the day
    ├── LakeError                a table or part is not what it should be
    │   ├── BooksError           rows in and rows out don't agree
    │   ├── CorruptPartError     a part file is torn or altered
    │   └── CommitError          the commit was refused; nothing changed
    │       └── ClaimedError     another run is making the day
    ├── GateError                a gate that must be open is shut
    │   └── OverrideError        a gate can't be overridden, or not so
    ├── AlertError               an alert did not arrive
    │   └── RefusedAlertError    its receiver answers, and does not want it
    └── SnapshotError            a served version can't be built, opened or trusted
        ├── NotServedError       nothing is published yet
        └── SinkError            a remote store can't be reached, loaded or trusted

Each message says what was found, what was expected, and what to do next.
"""


class BatchAssetsError(Exception):
    """Anything that this project refuses to do, with the reason."""


class PipelineError(BatchAssetsError):
    """The pipeline's declaration is wrong, or there is no such pipeline."""


class ConfigError(BatchAssetsError):
    """A setting of this machine is wrong."""


class DeviceError(ConfigError):
    """The device that was asked for is not there, or can't do what was asked."""


class StorageError(BatchAssetsError):
    """What holds `<root>` does not answer, refuses, or has not done what it said."""


class LostRowsError(StorageError):
    """A file that the log of a table of metrics names is gone or damaged."""


class SourceError(BatchAssetsError):
    """The source can't be read."""


class EmptySourceError(SourceError):
    """The source has no rows for the day, and the pipeline does not allow that."""


class NoHistoryError(SourceError):
    """The source holds what is now, and a day was asked for that is over."""


class ContractError(BatchAssetsError):
    """Columns are missing, extra or retyped against the contract."""


class ReleaseError(BatchAssetsError):
    """A release can't be used."""


class UnknownReleaseError(ReleaseError):
    """There is no release of that name or digest."""


class TamperedReleaseError(ReleaseError):
    """The bytes on disk are not those that were registered."""


class UnsignedError(ReleaseError):
    """No key that the project trusts has signed the release."""


class UnapprovedError(ReleaseError):
    """The release is not approved for the channel."""


class RevokedError(ReleaseError):
    """The approval was revoked, or has run out."""


class GoldenBatchError(ReleaseError):
    """The loaded model does not reproduce the release's golden batch."""


class EngineError(BatchAssetsError):
    """An engine is not there, or its workers don't come up or don't last."""


class ScoringError(BatchAssetsError):
    """The model can't be run over the day."""


class LakeError(BatchAssetsError):
    """A table of the lake is not what it should be."""


class BooksError(LakeError):
    """Rows in and rows out don't agree."""


class CorruptPartError(LakeError):
    """A part file is torn, altered, or not the one that was committed."""


class CommitError(LakeError):
    """A commit was refused; the table is as it was."""


class ClaimedError(CommitError):
    """Another run is making the day."""


class GateError(BatchAssetsError):
    """A gate that must be open is shut; what is served stays."""


class OverrideError(GateError):
    """A gate can't be overridden, or not in that way."""


class AlertError(BatchAssetsError):
    """A receiver of alerts can't be reached, or does not answer as it should."""


class RefusedAlertError(AlertError):
    """A receiver of alerts answers, and does not want this one."""


class SnapshotError(BatchAssetsError):
    """A version can't be built, opened or trusted."""


class NotServedError(SnapshotError):
    """Nothing is published for the pipeline yet."""


class SinkError(SnapshotError):
    """A remote store can't be reached, loaded or trusted; what it serves stays."""
