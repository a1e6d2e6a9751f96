"""Type what `docs/how-to.md` says of Ray, Spark, S3 and PostgreSQL, with the built wheel.

    python -m batch_assets_tests.how_to_servers build/package

The folder is what `first_night.sh` left: the distributions, and an environment that has
the wheel. Servers are real ones, on this machine. Each night has to leave the bytes that
the same night leaves without them.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
import yaml

from batch_assets_tests.seaweed import BUCKET, object_store
from batch_assets_tests.servers import postgres_server

HOUSE = Path(__file__).parents[1]
DOCS = HOUSE / "docs"
RAY, SPARK, RECORD = "2026-01-06", "2026-01-07", "2026-01-08"
FIRST = "2026-01-05"


def section(page: str, heading: str) -> str:
    text = (DOCS / page).read_text(encoding="utf-8")
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def typed(page: str, heading: str) -> str:
    """What a section says to type that is no block of bash: its lines by four blanks."""
    return "\n".join(re.findall(r"^    (\S.*)$", section(page, heading), re.M))


class Shop:
    """A project of `batch-assets init`, and the shell in which its commands are typed."""

    def __init__(self, package: Path, folder: Path, **environment: str) -> None:
        self.folder = folder
        dropped = ("PYTHONPATH", "DAGSTER_HOME", "BATCH_ASSETS_ROOT", "VIRTUAL_ENV")
        self._environment = {
            **{
                name: value for name, value in os.environ.items() if name not in dropped
            },
            "PATH": f"{package / 'venv' / 'bin'}:{os.environ['PATH']}",
            # `pip install 'batch-assets[ray]'` takes the wheel that was built.
            "PIP_FIND_LINKS": str(package / "dist"),
            "PIP_CONSTRAINT": str(HOUSE / "constraints.txt"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **environment,
        }

    def type(self, commands: str) -> str:
        """Type commands one after the other; the first that fails is the last."""
        begin = time.monotonic()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            env=self._environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout}\nended with {done.returncode}: {commands}")
        say(f"{time.monotonic() - begin:5.0f} s  {' && '.join(commands.splitlines())}")
        return done.stdout

    def version(self, day: str) -> str:
        """The version of a day: its name ends with a digest of its predictions."""
        listed = json.loads(self.type("batch-assets snapshot list churn --json"))
        (found,) = [one["version"] for one in listed if one["day"] == day]
        return str(found)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def must_equal(found: str, expected: str, what: str) -> None:
    if found != expected:
        raise SystemExit(f"{what}: found {found}, expected {expected}")


def main(package: Path) -> None:
    """Type it all, beside nights that meet no server.

    Raises:
        SystemExit: a command fails, or a night leaves other bytes.
    """
    folder = package / "servers"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (first,) = re.findall(r"^```bash\n(.*?)^```$", head(), re.M | re.S)
    Shop(package, folder).type(first)
    plain, shop = Shop(package, folder / "plain"), Shop(package, folder / "shop")
    shutil.copytree(shop.folder, plain.folder)

    for day, heading in ((RAY, "Score on Ray"), (SPARK, "Score on Spark")):
        shop.type(typed("how-to.md", heading))
        plain.type(f"batch-assets run churn --day {day}")
        must_equal(shop.version(day), plain.version(day), heading)
    in_a_bucket(package, plain)
    with_postgres(package, shop, plain)


def head() -> str:
    return (DOCS / "how-to.md").read_text(encoding="utf-8").partition("\n- [")[0]


def in_a_bucket(package: Path, plain: Shop) -> None:
    heading = "Keep everything in S3"
    with (
        tempfile.TemporaryDirectory() as cache,
        tempfile.TemporaryDirectory() as store,
        object_store(Path(store)) as server,
    ):
        environment = server.environment | {"BATCH_ASSETS_CACHE": cache}
        shop = Shop(package, plain.folder, **environment)
        commands = typed("how-to.md", heading).replace("my-bucket", BUCKET)
        listing = "batch-assets snapshot list churn --json"
        listed = shop.type(f"({commands}\n) >&2\n{variable(commands)} {listing}")
    # On a disk rows lie otherwise, unless the YAML says how: then the bytes are the same.
    again = Shop(package, plain.folder.with_name("compact"))
    shutil.copytree(plain.folder, again.folder, ignore=shutil.ignore_patterns("lake"))
    shutil.rmtree(again.folder / "data" / "snapshots")
    declared = "shop/defs/churn/defs.yaml"
    again.type(rf"sed -i 's/^  shards: .*/&\n  layout: compact/' {declared}")
    again.type(f"batch-assets run churn --day {FIRST}")
    must_equal(json.loads(listed)[-1]["version"], again.version(FIRST), heading)


def variable(commands: str) -> str:
    """The root that the commands name, for one command more."""
    (root,) = re.findall(r"BATCH_ASSETS_ROOT=\S+", commands)
    return root


def with_postgres(package: Path, shop: Shop, plain: Shop) -> None:
    heading = "Dagster's record in PostgreSQL"
    (block,) = re.findall(
        r"^```yaml\n(.*?)^```$", section("production.md", heading), re.M | re.S
    )
    with postgres_server() as server:
        url = server.url.replace("postgresql:", "postgresql+psycopg2:")
        shared = Shop(package, shop.folder, DAGSTER_PG_URL=url)
        with (shop.folder / "dagster.yaml").open("a", encoding="utf-8") as file:
            file.write(block)
        shared.type(
            f"pip install dagster-postgres\nbatch-assets run churn --day {RECORD}"
        )
        plain.type(f"batch-assets run churn --day {RECORD}")
        must_equal(shared.version(RECORD), plain.version(RECORD), heading)
        with psycopg.connect(server.url) as connection:
            (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone() or (0,)
        must_equal(str(runs), "1", "runs in PostgreSQL")
        several(Shop(package, shop.folder.parent, DAGSTER_PG_URL=url))


def several(teams: Shop) -> None:
    """Load two projects as code locations, from the workspace of the page."""
    text = section("production.md", "Several code locations")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S)
    assert len(yaml.safe_load(block)["load_from"]) == 2
    teams.type("batch-assets init bank")
    (teams.folder / "workspace.yaml").write_text(block, encoding="utf-8")
    (asked,) = re.findall(r"^    (dagster job list .*)$", text, re.M)
    jobs = teams.type(f"export DAGSTER_HOME=$PWD/shop\n{asked}")
    if "churn_job" not in jobs:
        raise SystemExit(f"the jobs of shop: found {jobs}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
