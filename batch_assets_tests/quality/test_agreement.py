"""How alike two releases of histories are, against a loop over what both have written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from batch_assets import Contract, Label, Ranking, VectorOutput
from batch_assets.lake.tables import Lake
from batch_assets.models.comparisons import Agreement
from batch_assets.models.release import Release
from batch_assets.quality.performance.agreement import agreement_of, common_outputs
from batch_assets_tests.histories import (
    ITEMS,
    NAME,
    POST,
    Histories,
    K,
    make_contract,
    make_rows,
    write_histories,
)
from batch_assets_tests.nights import score
from batch_assets_tests.toys import DAY, copy_rows, read_day, validate

ROWS = 400
# Of a user who has seen every item, nothing is left to rank.
SEEN_ALL, SEEN_ALL_AND_TASTES_BAD = 8, 9


class Champion(Histories):
    """Of every other device it tells no profile: one that is all zeros."""

    def forward(self, **tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        risk, classes, profile, scores = super().forward(**tensors)
        return risk, classes, profile * (tensors["device"] % 2)[:, None], scores


class Challenger(Champion):
    """It has other tastes and classes, and no answer for users of a certain taste."""

    def forward(self, **tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        risk, classes, profile, scores = super().forward(**tensors)
        risk = torch.where(
            tensors["taste"][:, 0] == SEEN_ALL_AND_TASTES_BAD, torch.nan, risk
        )
        turned = torch.where(tensors["region"] == 1, -1.0, 1.0)
        scores = scores + 0.8 * self.of_item[:, 0]
        others = torch.where(turned[:, None] < 0, classes.roll(1, 1), classes)
        return risk, others, profile * turned[:, None], scores


def contract() -> Contract:
    whole = make_contract()
    ranking = Ranking(name="next_items", vocabulary="items", k=K, at_least=0)
    return make_contract(outputs=(*whole.outputs[:-1], ranking))


def write(folder: Path, module: Histories, **changes: Any) -> Release:
    of = f"{__name__}:{type(module).__name__}"
    arguments = {"module": module, "contract": contract(), "import_path": of}
    return write_histories(
        folder, **(arguments | {"model_format": "safetensors"} | changes)
    )


@dataclass(frozen=True)
class Compared:
    """What two releases say of a day, by key, and how alike the code finds them."""

    old: dict[int, dict[str, Any]]
    new: dict[int, dict[str, Any]]
    found: dict[str, Agreement]

    @property
    def pairs(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        return [
            (row, self.new[key]) for key, row in self.old.items() if key in self.new
        ]

    @classmethod
    def of(cls, folder: Path, champion: Release, challenger: Release) -> "Compared":
        lakes = [
            night(folder / str(at), one)
            for at, one in enumerate((champion, challenger))
        ]
        both = common_outputs(champion.contract, challenger.contract)
        found = agreement_of(*lakes, DAY, both)
        old, new = ({row["user_id"]: row for row in said(lake)} for lake in lakes)
        return cls(old, new, {one.output: one for one in found})


def night(root: Path, release: Release) -> Lake:
    records = make_rows(ROWS).sort_by("user_id").to_pylist()
    for at, taste in ((40, SEEN_ALL), (41, SEEN_ALL), (42, SEEN_ALL_AND_TASTES_BAD)):
        records[at]["seen_items"] = list(ITEMS)
        records[at]["taste"][0] = taste
    lake = Lake(root, NAME)
    rows = pa.Table.from_pylist(records, release.contract.raw_schema())
    copy_rows(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract)
    score(lake, release)
    return lake


def said(lake: Lake) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_day(lake, "predictions").to_pylist()
    return rows


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write(tmp_path_factory.mktemp("champion") / NAME, Champion())


def test_labels_rankings_and_vectors_are_compared_row_by_row(
    tmp_path: Path, champion: Release
) -> None:
    other = write(tmp_path / "release", Challenger())
    compared = Compared.of(tmp_path, champion, other)
    pairs = compared.pairs
    assert len(pairs) == len(compared.new) < len(compared.old) == ROWS
    assert {one.rows for one in compared.found.values()} == {len(pairs)}

    verdicts = [old["verdict"] == new["verdict"] for old, new in pairs]
    firsts, overlaps, directions = [], [], []
    for old, new in pairs:
        mine, others = old["next_items"], new["next_items"]
        firsts.append(mine[:1] == others[:1])
        shared = [item for item in mine if item in others]
        overlaps.append(len(shared) / len(mine) if mine else float(mine == others))
        directions.append(alike(old["profile"], new["profile"]))
    found = compared.found
    assert found["verdict"].equal == pytest.approx(np.mean(verdicts))
    assert found["next_items"].equal == pytest.approx(np.mean(firsts))
    assert found["next_items"].overlap == pytest.approx(np.mean(overlaps))
    assert found["profile"].equal == pytest.approx(np.mean(directions))
    # None of them is what everything, or nothing, would be.
    for share in (verdicts, firsts, overlaps, directions):
        assert 0.05 < np.mean(share) < 0.95
    assert found["verdict"].overlap is None
    assert found["next_items"].rank_correlation is None


def alike(one: list[float], other: list[float]) -> bool:
    length = np.linalg.norm(one) * np.linalg.norm(other)
    if not length:
        return one == other
    return bool(np.dot(one, other) / length >= 0.99)


def test_a_release_agrees_with_itself_in_everything(
    tmp_path: Path, champion: Release
) -> None:
    found = Compared.of(tmp_path, champion, champion).found
    assert {name: one.equal for name, one in found.items()} == dict.fromkeys(found, 1.0)
    assert found["next_items"].overlap == 1.0


def test_of_no_items_of_the_champion_a_challenger_with_some_has_none(
    tmp_path: Path, champion: Release
) -> None:
    top = POST.stages[-1].model_copy(update={"without": ()})
    post = POST.model_copy(update={"stages": (*POST.stages[:-1], top)})
    unfiltered = write(tmp_path / "release", Champion(), post=post)
    compared = Compared.of(tmp_path, champion, unfiltered)
    empty = [old for old in compared.old.values() if not old["next_items"]]
    assert len(empty) == 3
    overlaps = [
        len(set(old["next_items"]) & set(new["next_items"]))
        / max(1, len(old["next_items"]))
        for old, new in compared.pairs
    ]
    assert compared.found["next_items"].overlap == pytest.approx(np.mean(overlaps))


def test_what_is_another_thing_by_the_same_name_is_not_compared() -> None:
    one = make_contract()
    words = {**one.vocabularies, "items": tuple(f"item {n}" for n in ITEMS)}
    inputs = [each for each in one.inputs if each.name not in ("history", "seen")]
    outputs = (
        VectorOutput(name="profile", size=4),
        Label(name="verdict", classes=("other", "classes")),
        Ranking(name="next_items", vocabulary="items", k=K),
        Label(name="risk", classes=("low", "high")),
    )
    other = make_contract(vocabularies=words, inputs=tuple(inputs), outputs=outputs)
    both = common_outputs(one, other).outputs
    assert [each.name for each in both] == ["verdict"]
    wider = Ranking(name="next_items", vocabulary="items", k=2 * K)
    both = common_outputs(one, make_contract(outputs=(wider,))).outputs
    assert both == (one.outputs[-1],)
