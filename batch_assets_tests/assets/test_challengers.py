"""A challenger: scored beside the approved release, compared, and approved on evidence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from batch_assets.cli.main import main
from batch_assets.errors import PipelineError, ReleaseError, TamperedReleaseError
from batch_assets.launch.runner import PipelineRunner
from batch_assets.models.input_rows import InputRows
from batch_assets.models.release import Release
from batch_assets_tests.commands import batch_assets
from batch_assets_tests.projects import (
    FIRST,
    SECOND,
    Project,
    attributes,
    make_project,
    metadata_of,
)
from batch_assets_tests.publishing import approved
from batch_assets_tests.toys import (
    ToyRisk,
    expected_risk,
    features_of,
    make_contract,
    make_rows,
    write_source,
    write_toy_release,
)

ROWS, SHARDS = 1_000, 4
DAYS = [f"2026-01-{day:02d}" for day in range(5, 11)]
OUTCOMES = {
    "source": {"kind": "parquet", "glob": "outcomes/{{ day }}.parquet"},
    "output": "risk",
    "task": "binary",
    "column": "left",
}


class Broken(torch.nn.Module):
    """A model that gives what no output may be."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.where(features[:, :1] > 60, 7.0, self.inner(features)[:, None])


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Release]:
    """A timid release that is in use, the one that is right, and one that fails on many."""
    usual = features_of(make_rows(2_000, seed=1), make_contract()).numpy()
    young = make_rows(64, seed=1).set_column(1, "age", pa.array([20] * 64, pa.int16()))
    modules = {
        "timid": ToyRisk(scale=0.3),
        "right": ToyRisk(),
        "broken": Broken(ToyRisk()),
    }
    made = {}
    for name, module in modules.items():
        with torch.inference_mode():
            outputs = module(torch.from_numpy(usual))
        changes: dict[str, Any] = {
            "module": module,
            "usual": InputRows(np.ascontiguousarray(usual.T)),
            "reference": {"risk": outputs.reshape(-1).numpy()},
            "reference_days": None,
        }
        if name == "broken":
            changes |= {
                "golden_inputs": features_of(young, make_contract()),
                "usual": None,
                "reference": None,
            }
        folder = tmp_path_factory.mktemp("release") / name
        made[name] = write_toy_release(folder, **changes)
    return made


@pytest.fixture
def declare(
    tmp_path: Path,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    releases: dict[str, Release],
) -> Callable[..., Project]:
    def made(challenger: str = "right", share: float = 0.3, **changes: Any) -> Project:
        shadow = {"release": releases[challenger].digest[:12], "share": share}
        pipeline = attributes(shards=SHARDS, outcomes=OUTCOMES, shadow=shadow) | changes
        return make_project(tmp_path / "project", root, monkeypatch, [pipeline])

    approved(root, releases["timid"])
    return made


def add(project: Project, release: Release) -> Release:
    return project.registry.add(release.folder)


def night(project: Project, on: dg.DagsterInstance, day: str):
    """A night, and what happened on its day, as the right release says."""
    rows = make_rows(ROWS, seed=int(day[-2:]))
    write_source(project.folder, rows, day=day)
    chance = np.random.default_rng(int(day[-2:])).uniform(size=ROWS)
    folder = project.folder / "outcomes"
    folder.mkdir(exist_ok=True)
    left = chance < expected_risk(rows)
    pq.write_table(
        pa.table({"user_id": rows["user_id"], "left": left}), folder / f"{day}.parquet"
    )
    return project.run("toy", day, on)


def served(project: Project) -> set[str]:
    """The releases of the rows that are served."""
    current = project.snapshots("toy").current()
    assert current is not None
    parts = project.lake("toy").predictions.parts(current[:10])
    return {part.receipt.release for part in parts}


@pytest.mark.slow
def test_a_challenger_is_tried_compared_found_better_and_approved(declare, releases):
    timid, right = releases["timid"], releases["right"]
    with dg.instance_for_test() as on:
        # Somebody has a better idea, registers it, and lets it run beside what is in use.
        project = declare(share=0.3)
        add(project, right)
        first = night(project, on, DAYS[0])
        assert first.success
        said = metadata_of(first, "shadow_predictions")
        assert said["digest"] == right.digest
        assert said["risk_rank_correlation"] > 0.99
        assert said["risk_psi"] > 0.25
        assert said["rows_per_second"] > 0

        # It has scored the first two of four shards, and what is served is as ever.
        shadow = project.lake("toy").shadow(right.digest)
        scored = shadow.predictions.parts(DAYS[0])
        champion = project.lake("toy").predictions.parts(DAYS[0])
        assert {part.shard for part in scored} == {0, 1}
        assert sum(p.rows for p in scored) == sum(
            p.rows for p in champion if p.shard < 2
        )
        assert served(project) == {timid.digest}

        # Days pass, and what happens is known: on the same rows it was nearer.
        for day in DAYS[1:]:
            assert night(project, on, day).success
        runner = PipelineRunner(project.definitions, on, "toy")
        for day in DAYS:
            report = runner.take_outcomes(day)
            assert report.success
            assert (
                report.metrics["challenger_log_loss"]
                < report.metrics["champion_log_loss"]
            )

        # All rows of these days say the same, and it is no chance.
        compared = runner.compare_releases(timid.digest[:12], right.digest[:12], DAYS)
        assert compared.success
        found = project.registry.comparisons("toy").find(compared.comparison[:12])
        better = {one.metric: one.better for one in found.differences}
        assert better["log_loss"] == better["brier"] == "challenger"
        assert all(day.known_rows == ROWS for day in found.days)
        assert found.finding.startswith("6 days; challenger better in log_loss")

        # It is approved on that evidence, and the next night is its own.
        event = project.registry.approve(
            "toy",
            right.digest,
            why="nearer on six days",
            by="ada",
            evidence=found.digest,
        )
        assert event.evidence.comparison == found.digest
        assert event.evidence.finding == found.finding
        again = night(project, on, DAYS[-1])
        assert again.success
        assert metadata_of(again, "model_release")["evidence"] == found.finding
        assert served(project) == {right.digest}


def test_evidence_is_of_the_release_that_is_approved_and_unaltered(declare, releases):
    timid, right = releases["timid"], releases["right"]
    with dg.instance_for_test() as on:
        project = declare()
        add(project, right)
        assert night(project, on, FIRST).success
        runner = PipelineRunner(project.definitions, on, "toy")
        compared = runner.compare_releases(timid.digest, right.digest, [FIRST])
    registry, digest = project.registry, compared.comparison

    with pytest.raises(
        ReleaseError, match=f"of the challenger {right.digest[:12]}, not"
    ):
        registry.approve("toy", timid.digest, why="x", evidence=digest)
    with pytest.raises(ReleaseError, match="'abc' names 0 comparisons"):
        registry.approve("toy", right.digest, why="x", evidence="abc")
    path = registry.comparisons("toy").folder / f"{digest}.json"
    text = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(text | {"by": "somebody"}), "utf-8")
    with pytest.raises(TamperedReleaseError, match="not what it was"):
        registry.approve("toy", right.digest, why="x", evidence=digest)
    assert [event.digest for event in registry.events("toy")] == [timid.digest]


def test_a_challenger_that_fails_stops_no_night(declare, releases):
    with dg.instance_for_test() as on:
        project = declare("broken", share=1)
        add(project, releases["broken"])
        result = night(project, on, FIRST)

    assert result.success
    assert served(project) == {releases["timid"].digest}
    (check,) = [
        one
        for one in result.get_asset_check_evaluations()
        if one.check_name == "the_challenger_scores_its_rows"
    ]
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert "dead letters" in (check.description or "")
    assert "shadow_predictions" not in {
        event.materialization.asset_key.path[-1]
        for event in result.get_asset_materialization_events()
    }


def test_a_challenger_that_is_not_registered_stops_no_night(declare):
    with dg.instance_for_test() as on:
        project = declare()
        result = night(project, on, FIRST)
        assert result.success
        runner = PipelineRunner(project.definitions, on, "toy")
        assert runner.take_outcomes(FIRST).success

    (check,) = [
        one
        for one in result.get_asset_check_evaluations()
        if one.check_name == "the_challenger_scores_its_rows"
    ]
    assert "names 0 releases of 'toy'" in (check.description or "")


def test_a_night_again_scores_the_challenger_once(declare, releases):
    with dg.instance_for_test() as on:
        project = declare()
        add(project, releases["right"])
        assert night(project, on, FIRST).success
        again = metadata_of(night(project, on, FIRST), "shadow_predictions")

    assert again["unchanged"]


def test_releases_are_compared_on_days_that_neither_has_scored(declare, releases):
    timid, right, broken = (releases[name] for name in ("timid", "right", "broken"))
    with dg.instance_for_test() as on:
        project = declare()
        for release in (right, broken):
            add(project, release)
        for day in (FIRST, SECOND):
            assert night(project, on, day).success
        runner = PipelineRunner(project.definitions, on, "toy")
        same = runner.compare_releases(right.digest, right.digest, [FIRST, SECOND])
        failed = runner.compare_releases(timid.digest, broken.digest, [FIRST])
        with pytest.raises(PipelineError, match="has no day '2025-01-01'"):
            runner.compare_releases(timid.digest, right.digest, ["2025-01-01"])
        unscored = runner.compare_releases(timid.digest, right.digest, ["2026-01-20"])

    found = project.registry.comparisons("toy").find(same.comparison)
    assert all(day.agreement[0].equal == 1 for day in found.days)
    assert (
        found.finding
        == "2 days; no outcome is known, so nobody can say which is better"
    )
    assert not failed.success
    assert "dead letters" in failed.errors[0]
    assert "no validated features of 2026-01-20" in unscored.errors[0]
    assert served(project) == {timid.digest}


@pytest.mark.slow
def test_a_person_compares_and_approves_on_a_command_line(
    declare, releases, tmp_path, monkeypatch
):
    timid, right = (releases[name].digest[:12] for name in ("timid", "right"))
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    project = declare()
    add(project, releases["right"])
    with dg.DagsterInstance.get() as on:
        assert night(project, on, FIRST).success
    env = {"BATCH_ASSETS_ROOT": str(project.root), "DAGSTER_HOME": str(home)}

    def typed(*words: str) -> str:
        return batch_assets(home, *words, cwd=project.folder, **env).stdout

    typed("outcomes", "run", "toy", "--day", FIRST)
    compare = ("release", "compare", timid, right, "--days")
    said = typed(*compare, f"{FIRST}..{FIRST}")
    assert "log_loss" in said
    (digest,) = project.registry.comparisons("toy").digests()
    assert f"--evidence {digest[:12]}" in said
    asked = ("--why", "it was nearer", "--evidence", digest[:12])
    approving = typed("release", "approve", "toy", right, *asked)
    assert f"on the evidence of {digest[:12]}: 1 days" in approving
    machine = json.loads(typed(*compare, FIRST, "--json"))
    assert machine["challenger"] == releases["right"].digest


@pytest.mark.parametrize(
    "days", ["2026-01-09..2026-01-05", "yesterday", "2026-01-05.."]
)
def test_days_that_are_none_are_refused(days):
    done = CliRunner().invoke(main, ["release", "compare", "a", "b", "--days", days])

    assert done.exit_code == 2
    assert "--days" in done.output
