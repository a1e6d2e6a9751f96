"""How fast a device scores: as it was given, as it was swept, or as past nights were."""

import math
import os
from collections.abc import Mapping

from batch_assets.errors import PipelineError
from batch_assets.lake.probe import Probe
from batch_assets.models.registry import Registry
from batch_assets.planner.capacity import PREDICTIONS, DeviceRate, HostRates, with_host
from batch_assets.planner.estimate import Rate
from batch_assets.planner.model_alone import ModelRate
from batch_assets.scoring.sweep_results import Sweep, Sweeps
from batch_assets.spec import PipelineSpec
from batch_assets.storage import StoragePath


def device_rate(
    spec: PipelineSpec,
    root: StoragePath,
    rates: Mapping[str, Rate],
    probed: Probe | None,
    *,
    device: str | None,
    model: ModelRate | None,
) -> DeviceRate:
    """Return how fast a device scores, from the best of what is known.

    Args:
        spec: of the pipeline.
        root: `<root>`, where sweeps and releases are.
        rates: of the stages of past nights.
        probed: what a probe of its tables found.
        device: its name, or a part of it, if one was named.
        model: the rate of the model alone, if one was given.

    Raises:
        PipelineError: nothing was measured, or nothing on that device.
        ReleaseError: a device was named, and no release is in use.
    """
    telling = probed if probed and probed.is_telling else None
    host = HostRates(
        telling.read if telling else None,
        telling.written if telling else None,
        len(os.sched_getaffinity(0)),
    )
    if model:
        named = f" of {device}" if device else ""
        shares = device is not None and "cpu" in device.lower()
        return with_host(
            model.rate,
            f"the rate{named} that was given, not measured here",
            host,
            shares_cores=shares,
        )
    if device:
        return _swept(spec, root, device, host)
    rate = rates.get(PREDICTIONS)
    if rate is None:
        msg = (
            f"no night of {spec.name} was measured yet, so how fast it is scored is not "
            "known: run a night, or say --device with a device that its release was "
            "swept on, or its rate: --rows-per-second, or --batch-rows and --batch-ms"
        )
        raise PipelineError(msg)
    workers = getattr(spec.engine, "workers", None) or 1
    per_row = rate.per_row * workers
    what = f"one of its {workers} workers" if workers > 1 else "all that they ran on"
    return DeviceRate(
        1 / per_row if per_row else math.inf,
        f"predictions of the last {rate.nights} nights; a device is {what}",
        of_nights=True,
    )


def _swept(
    spec: PipelineSpec, root: StoragePath, device: str, host: HostRates
) -> DeviceRate:
    """Return the rate of the release in use on a device, as it was swept."""
    release = Registry(root).resolve(spec.model.name)
    sweeps = Sweeps(root).of_release(release)
    found = [one for one in sweeps if device.lower() in one.device.lower()]
    if not found:
        there = ", ".join(sorted({one.device for one in sweeps})) or "no device"
        msg = (
            f"{release.name} {release.short} was never measured on '{device}': it was "
            f"swept on {there}. No rate is made up from another device's. Run "
            f"`batch-assets sweep {release.name}` on a machine with one, or give its rate: "
            "--rows-per-second N, or --batch-rows N and --batch-ms N"
        )
        raise PipelineError(msg)
    sweep = max(found, key=lambda one: one.at)
    source = f"the sweep of {release.name} {release.short} on {sweep.device}"
    if sweep.by_workers:
        best = max(point.rows_per_second for point in sweep.by_workers)
        return DeviceRate(
            best, f"{source}, whole chunks", model=sweep.knee.rows_per_second
        )
    return with_host(
        sweep.knee.rows_per_second, source, host, shares_cores=_is_cpu(sweep)
    )


def _is_cpu(sweep: Sweep) -> bool:
    return sweep.device.startswith("cpu")
