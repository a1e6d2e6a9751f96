"""Alerts without a daemon: the sensors of a pipeline, called by whoever ran a night.

What they tell is in the record under `<root>`, so that a daemon that sees the same run
tells nothing twice.
"""

import logging
from typing import Any

import dagster as dg
from dagster import DagsterInstance, ExecuteInProcessResult

from batch_assets.errors import PipelineError
from batch_assets.resources import StorageResource
from batch_assets.sensors.alerts import DECLARED, DONE, FAILED, WATCH
from batch_assets.spec import AlertsSpec
from batch_assets.storage import StoragePath

log = logging.getLogger(__name__)


def tell_of_run(
    definitions: dg.Definitions,
    instance: DagsterInstance,
    pipeline: str,
    result: ExecuteInProcessResult,
) -> None:
    """Do with a run that has ended here what the pipeline's sensor would do.

    It never raises: what a night has done does not depend on who hears of it.
    """
    sensor = _sensor(definitions, f"{pipeline}_{DONE if result.success else FAILED}")
    if sensor is None:
        return
    try:
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        with dg.build_run_status_sensor_context(
            sensor_name=sensor.name,
            dagster_event=result.all_events[-1],
            dagster_instance=instance,
            dagster_run=run,
            resources=_given(definitions),
        ) as context:
            sensor(context)
    except Exception:
        log.exception("%s: nobody was told of run %s", pipeline, result.run_id)


def look_once(
    definitions: dg.Definitions, instance: DagsterInstance, pipeline: str
) -> str:
    """Do once what the pipeline's watch does every few minutes; return what it says.

    Raises:
        PipelineError: there is no such pipeline, or it declares no alerts.
    """
    declared_alerts(definitions, pipeline)
    sensor = _sensor(definitions, f"{pipeline}_{WATCH}")
    assert sensor is not None
    with dg.build_sensor_context(
        instance=instance, sensor_name=sensor.name, resources=_given(definitions)
    ) as context:
        said: Any = sensor(context)
    return said.skip_message or ""


def declared_alerts(
    definitions: dg.Definitions, pipeline: str
) -> tuple[AlertsSpec, StoragePath]:
    """Return what a pipeline declares of alerts, and where their record lies.

    Raises:
        PipelineError: there is no such pipeline, or it declares none.
    """
    sensor = _sensor(definitions, f"{pipeline}_{WATCH}")
    if sensor is None:
        declared = sorted(
            name.removesuffix(f"_{WATCH}")
            for name in _sensors(definitions)
            if name.endswith(f"_{WATCH}")
        )
        msg = (
            f"no pipeline '{pipeline}' declares alerts; those that do: "
            f"{', '.join(declared) or 'none'}. Say in its YAML who is told, under "
            "`alerts`"
        )
        raise PipelineError(msg)
    spec = AlertsSpec.model_validate(sensor.metadata[DECLARED].value)
    return spec, _given(definitions)["storage"].path


def _sensors(definitions: dg.Definitions) -> dict[str, dg.SensorDefinition]:
    return {sensor.name: sensor for sensor in definitions.sensors or []}


def _sensor(definitions: dg.Definitions, name: str) -> dg.SensorDefinition | None:
    return _sensors(definitions).get(name)


def _given(definitions: dg.Definitions) -> dict[str, StorageResource]:
    """What the sensors are given, as the daemon has it."""
    storage: Any = (definitions.resources or {}).get("storage")
    return {"storage": storage or StorageResource()}
