"""A real object store behind a proxy of faults."""

from collections.abc import Iterator

import pytest

from batch_assets_tests.faults.bucket_nights import BucketStage, staged
from batch_assets_tests.faults.proxy import proxy_before
from batch_assets_tests.seaweed import object_store


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketStage]:
    """A stage in a bucket: its nights ask the proxy, and this process the store."""
    folder = tmp_path_factory.mktemp("bucket")
    with (
        object_store(tmp_path_factory.mktemp("store")) as server,
        proxy_before(server.environment["AWS_ENDPOINT_URL"]) as proxy,
        pytest.MonkeyPatch.context() as patched,
    ):
        for name, value in server.environment.items():
            patched.setenv(name, value)
        patched.setenv("BATCH_ASSETS_CACHE", str(folder / "judge"))
        environment = {
            "AWS_ENDPOINT_URL": proxy.url,
            "BATCH_ASSETS_CACHE": str(folder / "night"),
        }
        with staged(folder, proxy, environment) as stage:
            yield stage
