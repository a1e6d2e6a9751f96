"""The stages of a release: they fit its outputs, and run as they were written."""

from pathlib import Path
from typing import Any

import pytest

from batch_assets.errors import ReleaseError
from batch_assets.lake.tables import Lake
from batch_assets.models.post import function_of, source_digest
from batch_assets.models.post_specs import (
    PostProcessing,
    Python,
    Sigmoid,
    Threshold,
    TopK,
)
from batch_assets.models.release import MANIFEST, open_release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.histories import NAME, POST, K, make_rows, write_histories
from batch_assets_tests.nights import score
from batch_assets_tests.scoring.test_histories import must_be_as_expected
from batch_assets_tests.toys import copy_rows, read_day, validate

SOURCE = """\
def sigmoid(risk):
    return 1 / (1 + (-risk.float()).exp())
"""
AS_WEIGHTS = {
    "model_format": "safetensors",
    "import_path": "batch_assets_tests.histories:Histories",
}


def post_with(*stages: Any) -> PostProcessing:
    """The stages of histories, with others in place of those that leave the same."""
    others = {stage.leaves: stage for stage in stages}
    kept = tuple(others.get(stage.leaves, stage) for stage in POST.stages)
    return PostProcessing(gives=POST.gives, stages=kept)


@pytest.mark.parametrize(
    ("post", "said"),
    [
        (
            PostProcessing(gives=POST.gives, stages=POST.stages[:-1]),
            r"no stage leaves \['next_items', 'next_items_scores'\]; there are",
        ),
        (
            post_with(TopK(of="scores", into="next_items", k=3)),
            f"'next_items' keeps {K} items, k and spare, and its stage takes 3",
        ),
        (
            post_with(TopK(of="scores", into="next_items", k=K, without=("taste",))),
            r"a ranking is without \['taste'\]; the sequences of ids are",
        ),
        (
            post_with(Threshold(of="risk", into="band", at=(0.25, 0.5))),
            "'band' has 2 classes, which 1 limits divide; its stage has 2",
        ),
    ],
    ids=["lacking", "k", "without", "limits"],
)
def test_stages_that_do_not_fit_the_outputs_are_refused_and_nothing_is_written(
    tmp_path: Path, post: PostProcessing, said: str
) -> None:
    with pytest.raises(ReleaseError, match=f"{said}.*Nothing was written"):
        write_histories(tmp_path / "release", post=post)
    assert not (tmp_path / "release").exists()


def test_a_python_stage_is_sealed_run_in_a_night_and_refused_when_its_file_changes(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "stages_of_a_release.py"
    source.write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    path = "stages_of_a_release:sigmoid"
    stage = Python(path=path, takes=("risk",), gives=("risk",))
    assert Sigmoid(of="risk").leaves == stage.leaves
    release = write_histories(tmp_path / NAME, post=post_with(stage), **AS_WEIGHTS)
    assert source_digest(path) in (release.folder / MANIFEST).read_text()

    lake, rows = Lake(root, NAME), make_rows(100)
    copy_rows(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract)
    score(lake, release)
    must_be_as_expected(read_day(lake, "predictions"), rows)

    source.write_text(SOURCE.replace("1 / ", "0.5 / "))
    # As in the next process, which has run nothing of it yet.
    function_of.cache_clear()
    again = open_release(release.folder, release.digest)
    with pytest.raises(ReleaseError, match=f"the source of '{path}' hashes to"):
        Scorer(again, find_device("cpu"))
    other = write_histories(tmp_path / "other", post=post_with(stage), **AS_WEIGHTS)
    assert other.digest != release.digest
