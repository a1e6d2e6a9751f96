"""Look at everything, one thing after the other; what breaks stops no other look."""

from collections.abc import Callable, Iterator

from batch_assets.errors import PipelineError
from batch_assets.launch.doctor import machine, places, project
from batch_assets.launch.doctor.findings import Examined, Finding
from batch_assets.launch.project import load_definitions, specs_of
from batch_assets.storage import StoragePath

Look = Callable[[Examined], Iterator[Finding]]

LOOKS: tuple[Look, ...] = (
    machine.versions,
    machine.device,
    machine.java,
    machine.clock,
    machine.extras,
    places.permissions,
    places.replacing,
    places.room,
    project.pipelines,
    project.dagster,
    project.sinks,
    project.receivers,
)


def examine(root: StoragePath) -> Iterator[Finding]:
    """Look at this machine, at `<root>`, and at the project that this is run in."""
    try:
        definitions = load_definitions()
        examined = Examined(root, definitions, specs_of(definitions))
    except PipelineError as error:
        mend = "batch-assets init FOLDER writes a project; dg check defs shows an error"
        yield Finding("project", "bad", str(error), mend)
        examined = Examined(root, None)
    for look in LOOKS:
        try:
            yield from look(examined)
        # Whatever a library, a driver or a server comes up with is a finding, too.
        except Exception as error:  # noqa: BLE001
            found = f"it can't be looked at: {type(error).__name__}: {error}"
            yield Finding(
                look.__name__,
                "bad",
                found,
                "mend what the error names, then run this again",
            )
