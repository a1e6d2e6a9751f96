"""This machine: what is installed, the device, Java, the clock."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from batch_assets.errors import ConfigError
from batch_assets.launch.doctor.findings import Examined, Finding
from batch_assets.resources import GpuResource
from batch_assets.scoring.device import find_device

OURS = "batch-assets"
NAMED = ("dagster", "torch", "deltalake", "polars", "pyarrow")
# Spark 4 runs on 17 and 21.
JAVA = 17
# Two clocks that count the same seconds may part by so much while they are looked at.
JUMP_SECONDS = 1.0


def versions(_: Examined) -> Iterator[Finding]:
    """Compare what is installed with what this version was made for."""
    python = ".".join(map(str, sys.version_info[:3]))
    # MLflow's reader of metadata, once imported, raises for an item that is not there.
    (allowed,) = metadata(OURS).get_all("Requires-Python", [""])
    wrong = lacking("")
    if python not in SpecifierSet(allowed):
        wrong.insert(0, f"Python {python}, expected {allowed}")
    if wrong:
        mend = f"pip install --upgrade {OURS}, in an environment of its own"
        yield Finding("versions", "bad", "; ".join(wrong), mend)
        return
    named = ", ".join(f"{name} {version(name)}" for name in NAMED)
    yield Finding("versions", "ok", f"{OURS} {version(OURS)}, Python {python}, {named}")


def extras(examined: Examined) -> Iterator[Finding]:
    """See that each client that a pipeline needs is installed: of engines, sinks, alerts."""
    needed: dict[str, set[str]] = {}
    for spec in examined.specs:
        receivers = spec.alerts.receivers if spec.alerts else []
        for one in (spec.engine, *spec.sinks, *receivers):
            needed.setdefault(one.kind, set()).add(spec.name)
    lacked = {extra: wrong for extra in sorted(needed) if (wrong := lacking(extra))}
    for extra, wrong in lacked.items():
        of = ", ".join(sorted(needed[extra]))
        found = f"{of} needs the extra {extra}: {'; '.join(wrong)}"
        yield Finding("extras", "bad", found, f"pip install '{OURS}[{extra}]'")
    if needed and not lacked:
        said = f"what these need is installed: {', '.join(sorted(needed))}"
        yield Finding("extras", "ok", said)


def lacking(extra: str) -> list[str]:
    """Say which requirements are not kept: those of an extra, or of every installation."""
    wrong = []
    for text in requires(OURS) or []:
        needed = Requirement(text)
        always = needed.marker is None or needed.marker.evaluate({"extra": ""})
        asked = needed.marker is None or needed.marker.evaluate({"extra": extra})
        if not asked or (extra and always):
            continue
        if needed.name == OURS:  # An extra that brings another along.
            wrong += [one for more in sorted(needed.extras) for one in lacking(more)]
            continue
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            wrong.append(f"{needed.name} is not installed")
            continue
        if not needed.specifier.contains(found, prereleases=True):
            wrong.append(f"{needed.name} {found}, expected {needed.specifier}")
    return wrong


def device(examined: Examined) -> Iterator[Finding]:
    """Find the device that nights score on, as the project declares it."""
    resources = examined.definitions.resources if examined.definitions else None
    declared = (resources or {}).get("gpu")
    gpu = declared if isinstance(declared, GpuResource) else GpuResource()
    try:
        found = find_device(gpu.device, gpu.precision, gpu.batch_rows)
    except ConfigError as error:
        mend = "mend the resource 'gpu' of the definitions, or the machine's driver"
        yield Finding("device", "bad", str(error), mend)
        return
    memory = f"{found.memory / 2**30:,.0f} GiB" if found.memory else "memory unknown"
    said = f"{found.name}, {memory}, {os.cpu_count()} cores, in {found.computes_in}"
    yield Finding("device", "ok", said)


def java(examined: Examined) -> Iterator[Finding]:
    """Find Java, where a pipeline's engine starts it here."""
    pipelines = [spec.name for spec in examined.specs if spec.engine.needs_java]
    if not pipelines:
        return
    mend = f"apt-get install openjdk-{JAVA}-jre-headless, or set JAVA_HOME"
    home = os.environ.get("JAVA_HOME")
    found = f"{home}/bin/java" if home else shutil.which("java")
    try:
        done = subprocess.run(
            [found or "java", "-version"], capture_output=True, text=True, check=False
        )
    except OSError as error:
        said = f"{', '.join(pipelines)} needs Java {JAVA}: {error}"
        yield Finding("java", "bad", said, mend)
        return
    told = re.search(r'version "(\d+)', done.stderr)
    number = int(told[1]) if told else 0
    first = (done.stderr or done.stdout).partition("\n")[0]
    said = f"{found}: {first}"
    if number < JAVA:
        yield Finding("java", "bad", f"{said}; expected {JAVA} or newer", mend)
    else:
        yield Finding("java", "ok", said)


def clock(examined: Examined) -> Iterator[Finding]:
    """See that time runs evenly, and that every time zone is known."""
    ahead = time.time() - time.monotonic()
    zones = {"UTC", *(spec.timezone for spec in examined.specs)}
    try:
        for zone in zones:
            ZoneInfo(zone)
    except ZoneInfoNotFoundError as error:
        yield Finding("clock", "bad", str(error), "pip install tzdata")
        return
    jump = abs(time.time() - time.monotonic() - ahead)
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, zones {', '.join(sorted(zones))}"
    if jump > JUMP_SECONDS:
        said = f"{now}; it has just jumped by {jump:.1f} s"
        yield Finding("clock", "bad", said, "let NTP set it: timedatectl set-ntp true")
    else:
        yield Finding("clock", "ok", now)
