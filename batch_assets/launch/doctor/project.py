"""The project: its pipelines, Dagster's daemon and schedules, sinks, and who is told."""

from collections.abc import Iterator
from contextlib import closing

from batch_assets.alerts.receivers.factory import open_receiver
from batch_assets.errors import BatchAssetsError
from batch_assets.launch.doctor.findings import Examined, Finding
from batch_assets.launch.project import open_instance
from batch_assets.sinks.factory import open_sink

DAEMON = "start it beside the UI: dg dev, or dagster-daemon run"


def pipelines(examined: Examined) -> Iterator[Finding]:
    """Say which pipelines are declared."""
    names = ", ".join(sorted(spec.name for spec in examined.specs))
    if names:
        yield Finding("pipelines", "ok", names)
    else:
        mend = "dg scaffold defs batch_assets.component.ScoringPipeline NAME"
        yield Finding("pipelines", "warn", "none is declared", mend)


def dagster(examined: Examined) -> Iterator[Finding]:
    """Open Dagster's instance; see whether its daemon is alive, and what it starts."""
    if examined.definitions is None:
        return
    ours = {f"{spec.name}_schedule" for spec in examined.specs}
    with open_instance() as instance:
        beats = instance.get_daemon_statuses()
        down = sorted(name for name, beat in beats.items() if not beat.healthy)
        states = instance.all_instigator_state()
        running = {state.instigator_name for state in states if state.is_running}
        where = instance.root_directory
    on = sorted(ours & running)
    said = f"{where}: schedules that run: {', '.join(on) or 'none'}"
    if on and down:
        found = (
            f"{said}; and the daemon that starts them is not there: {', '.join(down)}"
        )
        yield Finding("dagster", "bad", found, DAEMON)
    elif ours - running:
        off = ", ".join(sorted(ours - running))
        mend = f"if its daemon is to start the nights, turn on {off}: dg dev"
        yield Finding("dagster", "warn", said, mend)
    else:
        yield Finding("dagster", "ok", said)


def sinks(examined: Examined) -> Iterator[Finding]:
    """Ask each remote store what it serves."""
    for spec in examined.specs:
        for target in spec.sinks:
            name = f"sink {spec.name}/{target.name}"
            try:
                with closing(open_sink(target, spec.name)) as sink:
                    served = sink.current()
            except BatchAssetsError as error:
                mend = "docs/sinks.md says what it needs; then run this again"
                yield Finding(name, "bad", str(error), mend)
            else:
                yield Finding(
                    name, "ok", f"answers; it serves {served or 'nothing yet'}"
                )


def receivers(examined: Examined) -> Iterator[Finding]:
    """See that somebody is told, and that what each receiver needs is set."""
    for spec in examined.specs:
        name = f"alerts {spec.name}"
        if spec.alerts is None:
            mend = f"say under `alerts` in the YAML of {spec.name} who is on call"
            yield Finding(name, "warn", "nobody is told when a night fails", mend)
            continue
        for receiver in spec.alerts.receivers:
            try:
                open_receiver(receiver)
            except BatchAssetsError as error:
                mend = f"then try it: batch-assets alerts test {spec.name}"
                yield Finding(name, "bad", f"{receiver.name}: {error}", mend)
            else:
                mend = f"batch-assets alerts test {spec.name}"
                found = f"{receiver.name} has what it needs; nothing was sent"
                yield Finding(name, "ok", found, mend)
