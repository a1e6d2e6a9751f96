"""The pipeline `baskets`: histories of a package's households in, ranked lists out.

The release is trained here on a few evenings: what it says is not judged, only that a
night says what it says.
"""

import json
import shutil
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from dagster import DagsterInstance

from batch_assets.cli import lookup as command
from batch_assets.defs.baskets import train
from batch_assets.defs.baskets.rows import connect, data_folder
from batch_assets.launch.demo import DEMOS
from batch_assets.snapshots.version import Version
from batch_assets_tests.projects import FLIGHTS as REPOSITORY
from batch_assets_tests.projects import Project, make_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DAY = "2017-11-05"
DEFS = REPOSITORY / "batch_assets" / "defs" / "baskets"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release that has learned from two evenings."""
    folder = tmp_path_factory.mktemp("baskets") / "release"
    evenings = date(2017, 10, 25), date(2017, 10, 29)
    train.write(connect(data_folder()), folder, evenings)
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, released: Path) -> Project:
    import yaml

    declared = yaml.safe_load((DEFS / "defs.yaml").read_text())["attributes"]
    made = make_project(tmp_path / "p", tmp_path / "root", monkeypatch, [declared])
    defs = tmp_path / "p" / made.module / "defs" / "baskets"
    for query in DEFS.glob("*.sql"):
        shutil.copy(query, defs)
    DEMOS["baskets"].take_data(tmp_path / "p")
    release = made.registry.add(released)
    made.registry.approve("next_basket", release.digest, why="a test", by="ada")
    return made


def rows_of(query: str, **names: Any) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        transactions = data_folder() / "transactions.parquet"
        connection.sql(f"CREATE VIEW transactions AS FROM '{transactions}'")
        return connection.execute((DEFS / query).read_text(), names).fetchall()


def test_a_night_of_all_households_is_what_the_model_says(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DagsterInstance.ephemeral() as on:
        result = project.run("baskets", DAY, on)
    assert result.success
    evening = date.fromisoformat(DAY)
    households = rows_of("features.sql", day=evening)
    gone = {item for (item,) in rows_of("unavailable.sql", day=evening)}
    version = Version.current(project.snapshots("baskets"))
    assert version.manifest.rows == len(households) > 2_400
    release = project.registry.resolve("next_basket")
    known = np.array(release.contract.vocabularies["products"])
    from batch_assets.models.formats import load_module

    module = load_module(release, torch.device("cpu"))
    for household, products, days_ago, this_week in households[::200]:
        kept = [
            (int(np.searchsorted(known, product)), days)
            for product, days in zip(products, days_ago, strict=True)
            if product in known
        ]
        with torch.inference_mode():
            scores = module(
                torch.tensor([[at for at, _ in kept]]),
                torch.tensor([[days for _, days in kept]]),
                torch.ones(1, len(kept), dtype=torch.bool),
            )[0].numpy()
        allowed = ~np.isin(known, [*gone, *this_week])
        best = np.argsort(-np.where(allowed, scores, -np.inf), kind="stable")[:10]
        answer = version.get(household)
        assert answer is not None
        ranking = answer.outputs["next_products"]
        np.testing.assert_allclose([s for _, s in ranking], scores[best], rtol=1e-4)
        items = [item for item, _ in ranking]
        assert len(items) == len(set(items)) == 10
        assert not set(items) & (gone | set(this_week))
    must_print(version, household, monkeypatch)
    must_fall_back(version, rows_of("popular.sql", day=evening), set(known.tolist()))


def must_fall_back(
    version: Version, popular: list[tuple[Any, ...]], known: set[int]
) -> None:
    """A household that has bought nothing yet gets its store's, or everybody's."""
    assert len(popular) > 5
    for store, products, shares in popular:
        answer = version.get(10**9, store)
        assert answer is not None
        assert answer.is_fallback
        pairs = zip(products, shares, strict=True)
        best = [pair for pair in pairs if pair[0] in known][:10]
        assert [item for item, _ in answer.outputs["next_products"]] == [
            item for item, _ in best
        ]
    assert version.get(10**9, "no store") == version.get(10**9)._replace(
        segment="no store"
    )


def must_print(
    version: Version, household: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = version.folder.parent
    monkeypatch.setattr(command, "snapshots_of", lambda pipeline: folder)
    said = CliRunner().invoke(command.lookup, ["baskets", str(household)]).output
    places = [line.split()[-3] for line in said.splitlines()[:10]]
    assert places == [str(place) for place in range(1, 11)]
    asked = ["baskets", str(household), "--json"]
    shown = json.loads(CliRunner().invoke(command.lookup, asked).output)
    ranking = shown["outputs"]["next_products"]
    assert [set(one) for one in ranking] == [{"item", "score"}] * 10
