"""An S3-compatible server of the tests' own: SeaweedFS, a real one, on free ports."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

BUCKET = "batch-assets"
KEYS = {"accessKey": "the-key", "secretKey": "the-secret"}
START_SECONDS = 60
# The program lies beside the interpreter of the environment that it was installed into.
WEED = Path(sys.executable).with_name("weed")
SERVICES = ("s3", "master", "volume", "filer")


class Server:
    """A server with its data in a folder and one bucket, and the environment to reach it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        config = folder / "identities.json"
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "tests", "credentials": [KEYS], "actions": actions}
        config.write_text(json.dumps({"identities": [identity]}), "utf-8")
        (folder / "data").mkdir()
        ports = _free_ports(2 * len(SERVICES))
        flags = []
        for service, port, grpc in zip(SERVICES, ports[::2], ports[1::2], strict=True):
            flags += [f"-{service}.port={port}", f"-{service}.port.grpc={grpc}"]
        self._command = [
            str(WEED),
            "server",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={folder / 'data'}",
            "-s3",
            f"-s3.config={config}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.volumeSizeLimitMB=64",
            "-master.telemetry=false",
            *flags,
        ]
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[0]}",
            "AWS_ACCESS_KEY_ID": KEYS["accessKey"],
            "AWS_SECRET_ACCESS_KEY": KEYS["secretKey"],
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }

    def start(self) -> None:
        """Start it, and go on when it answers or not."""
        with (self._folder / "log").open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, cwd=self._folder
            )

    def kill(self) -> None:
        # Asked kindly, it takes half a minute.
        self._process.kill()
        self._process.wait()

    def make_bucket(self) -> None:
        """Wait until it takes a first object, for which it makes the bucket.

        Raises:
            RuntimeError: it does not come up; with the end of its log.
        """
        config = {name.lower(): value for name, value in self.environment.items()}
        store = S3Store(BUCKET, config=config, retry_config={"max_retries": 0})
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                obstore.put(store, "ready", b"yes")
            except BaseError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._folder / "log").read_text("utf-8")
                    end = "\n".join(log.splitlines()[-20:])
                    msg = f"the object store does not answer: {error}\n{end}"
                    raise RuntimeError(msg) from error
                time.sleep(0.1)
            else:
                return


@contextmanager
def object_store(folder: Path) -> Iterator[Server]:
    """A server while this is entered."""
    server = Server(folder)
    server.start()
    try:
        server.make_bucket()
        yield server
    finally:
        server.kill()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for listener in sockets:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    return ports
