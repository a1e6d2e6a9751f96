"""The resource that `docs/engines.md` shows, against what dagster-ray and Kubernetes accept.

There is no cluster here: what would be sent to one is looked at.
"""

import re
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
from kubernetes.client import V1PodTemplateSpec

from batch_assets.spec.engines import Ray
from batch_assets_tests.projects import FLIGHTS, attributes, write_project

pytestmark = pytest.mark.engines
PAGE = (FLIGHTS / "docs" / "engines.md").read_text(encoding="utf-8")
_, _, SECTION = PAGE.partition("### KubeRay\n")
(BLOCK,) = re.findall(
    r"^```python\n(.*?)^```$", SECTION.partition("\n## ")[0], re.M | re.S
)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> dict[str, Any]:
    """What the block defines, in a project whose nights are on that resource."""
    folder = tmp_path_factory.mktemp("kuberay")
    engine = {"kind": "ray", "resource": "kuberay", "workers": 8}
    write_project(folder, "shop_on_kuberay", [attributes("churn") | {"engine": engine}])
    names: dict[str, Any] = {
        "__file__": str(folder / "shop_on_kuberay" / "definitions.py")
    }
    exec(compile(BLOCK, "docs/engines.md", "exec"), names)
    return names


def manifest_of(page: dict[str, Any]) -> dict[str, Any]:
    with dg.build_asset_context() as context:
        made: dict[str, Any] = page["kuberay"].ray_job.to_k8s(
            context, image=page["kuberay"].image, env_vars=page["kuberay"].env_vars
        )
    return made


def groups_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = manifest["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def as_pod(template: dict[str, Any]) -> V1PodTemplateSpec:
    snake = k8s_snake_case_dict(V1PodTemplateSpec, template)
    return k8s_model_from_dict(V1PodTemplateSpec, snake)


def test_the_pipeline_is_given_the_resource_by_its_name(page, monkeypatch):
    monkeypatch.syspath_prepend(Path(page["__file__"]).parents[1])
    loaded = page["defs"]()

    assert Ray(kind="ray", resource="kuberay").needs == {"kuberay"}
    assert "kuberay" in loaded.resources
    assert loaded.resolve_job_def("churn_job").name == "churn_job"


def test_its_pods_are_such_as_kubernetes_knows(page):
    manifest = manifest_of(page)
    assert (manifest["kind"], manifest["spec"]["submissionMode"]) == (
        "RayJob",
        "InteractiveMode",
    )

    for group in groups_of(manifest):
        (container,) = as_pod(group["template"]).spec.containers
        assert container.image == "registry.example.org/shop:2026-11-29"
        assert [(one.name, one.value) for one in container.env] == [
            ("BATCH_ASSETS_ROOT", "s3://nights/shop")
        ]
        assert container.resources.limits["memory"]
        assert as_pod(group["template"]).spec.termination_grace_period_seconds > 20


def test_a_pod_that_kubernetes_does_not_know_is_noticed(page):
    template = groups_of(manifest_of(page))[0]["template"]
    template["spec"]["containers"][0]["enviroment"] = []

    with pytest.raises(Exception, match="enviroment"):
        as_pod(template)


def test_a_size_in_the_page_is_that_of_its_yaml(page):
    (workers,) = re.findall(r"resource: kuberay, workers: (\d+)", SECTION)
    (group,) = groups_of(manifest_of(page))[1:]

    assert group["replicas"] == group["maxReplicas"] == int(workers)
