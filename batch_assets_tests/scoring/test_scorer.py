"""A release on a device gives what its module gives, or does not score at all."""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from batch_assets.errors import GoldenBatchError, ReleaseError
from batch_assets.models.contract import Contract
from batch_assets.models.release import GOLDEN, Release
from batch_assets.models.writing import save_release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.device_errors import out_of_memory
from batch_assets.scoring.scorer import Scorer, Spent
from batch_assets_tests.models_that_fail import POISON, WRONG, Hungry
from batch_assets_tests.releases_by_hand import altered, rehashed
from batch_assets_tests.toys import (
    MatrixRisk,
    ToyRisk,
    features_of,
    make_contract,
    make_rows,
    needs_cpu_with,
    write_toy_release,
    write_toy_release_as,
)

ROWS = 257


class TwoHeads(torch.nn.Module):
    """An integer and a double for each row, as a tuple of columns."""

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        whole = torch.nan_to_num(features[:, 0]).to(torch.int64)
        return whole * 2**40, features[:, 3].to(torch.float64) / 3


class Stacked(torch.nn.Module):
    """Two outputs in one tensor (rows, 2)."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.stack([features[:, 0], features[:, 3]], dim=1)


class Column(torch.nn.Module):
    """One output as a tensor (rows, 1)."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, :1] + 1


class Shy(torch.nn.Module):
    """Gives as many columns as it is told, so a weight file can bring it in."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.zero = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features[:, : self.columns] + self.zero


def hungry(folder: Path, rows: int, how: str = "torch", batch: int = 100) -> Scorer:
    features = packed(8)
    features[0] %= 90
    release = write_toy_release(
        folder / "release",
        module=Hungry(ROWS, "torch"),
        model_format="safetensors",
        import_path="batch_assets_tests.models_that_fail:Hungry",
        arguments={"rows": rows, "how": how},
        golden_inputs=torch.from_numpy(features.T.copy()[:2]),
    )
    scorer = Scorer(release, find_device("cpu", batch_rows=str(batch)))
    asked(scorer).clear()
    return scorer


def asked(scorer: Scorer) -> list[int]:
    """The rows of each batch that the model got."""
    # It is given copies, in case it writes into them.
    module: Any = scorer._module
    asked: list[int] = module.module.asked
    return asked


def aged(features: np.ndarray, ages: dict[int, int] | None = None) -> np.ndarray:
    """At ages at which the model behaves, but for the rows that are named."""
    features = features.copy()
    features[0] %= 90
    for row, age in (ages or {}).items():
        features[0, row] = age
    return features


def packed(rows: int = ROWS) -> np.ndarray:
    """Toy features as the scorer takes them: (features, rows), one run per column."""
    features = features_of(make_rows(rows, seed=3), make_contract())
    return np.ascontiguousarray(features.numpy().T)


def written(folder: Path, module: torch.nn.Module, *outputs: dict[str, Any]) -> Release:
    contract = make_contract(outputs=list(outputs))
    return write_toy_release(
        folder / "release", module=module, contract=contract, reference={}
    )


@pytest.mark.parametrize("batch_rows", ["1", "7", "256", "257", "auto"])
def test_outputs_are_the_modules_whatever_the_batch_size(
    toy_release: Release, batch_rows: str
) -> None:
    features = packed()
    with torch.inference_mode():
        expected = ToyRisk()(torch.from_numpy(features.T)).numpy()

    outputs, seconds = Scorer(
        toy_release, find_device("cpu", batch_rows=batch_rows)
    ).score(features)

    np.testing.assert_allclose(outputs["risk"], expected, rtol=1e-6)
    assert outputs["risk"].dtype == np.float32
    assert seconds.model > 0
    assert seconds.copy == 0


def test_no_rows_give_no_outputs(toy_release: Release) -> None:
    outputs, seconds = Scorer(toy_release, find_device("cpu")).score(packed(0))

    assert {name: len(values) for name, values in outputs.items()} == {"risk": 0}
    assert seconds == Spent()


@pytest.mark.parametrize("model_format", ["pt2", "torchscript", "safetensors"])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_every_format_scores_the_same(tmp_path: Path, model_format: Any) -> None:
    release = write_toy_release_as(model_format, tmp_path / "release")

    outputs, _ = Scorer(release, find_device("cpu")).score(packed())

    expected = ToyRisk()(torch.from_numpy(packed().T)).numpy()
    np.testing.assert_allclose(outputs["risk"], expected, rtol=1e-6)


def test_a_tuple_of_columns_keeps_every_type_exactly(tmp_path: Path) -> None:
    release = written(
        tmp_path,
        TwoHeads(),
        {"name": "code", "dtype": "int64"},
        {"name": "share", "dtype": "float64"},
    )
    features = packed()

    outputs, _ = Scorer(release, find_device("cpu", batch_rows="50")).score(features)

    # 2**40 and more does not fit a float32: the integers never went through one.
    assert outputs["code"].tolist() == [int(age) * 2**40 for age in features[0]]
    assert outputs["code"].dtype == np.int64
    np.testing.assert_array_equal(
        outputs["share"], features[3].astype(np.float64) / 3, strict=True
    )


@pytest.mark.parametrize(
    ("module", "names"), [(Stacked(), ["one", "two"]), (Column(), ["one"])]
)
def test_a_tensor_of_columns_goes_to_the_outputs_in_order(
    tmp_path: Path, module: torch.nn.Module, names: list[str]
) -> None:
    release = written(tmp_path, module, *({"name": name} for name in names))
    features = packed()

    outputs, _ = Scorer(release, find_device("cpu")).score(features)

    expected = module(torch.from_numpy(features.T)).numpy().T
    assert list(outputs) == names
    np.testing.assert_array_equal(np.stack(list(outputs.values())), expected)


@pytest.mark.parametrize(
    ("outputs", "off"),
    [
        (torch.zeros(16), "16 of 16 rows"),
        (torch.full((16,), torch.nan), "16 of 16 rows"),
        (torch.full((16,), torch.inf), "16 of 16 rows"),
    ],
)
def test_a_golden_batch_that_is_not_reproduced_is_refused(
    tmp_path: Path, toy_release: Release, outputs: torch.Tensor, off: str
) -> None:
    release = altered(toy_release, tmp_path / "altered", risk=outputs)

    with pytest.raises(GoldenBatchError, match=rf"'risk' is off by .*{off}"):
        Scorer(release, find_device("cpu"))


def test_one_golden_row_off_by_more_than_the_tolerance_is_enough(
    tmp_path: Path, toy_release: Release
) -> None:
    golden = load_file(toy_release.folder / GOLDEN)["output.risk"]
    near, far = golden.clone(), golden.clone()
    near[5] += 0.9e-5
    far[5] += 1e-3

    Scorer(altered(toy_release, tmp_path / "near", risk=near), find_device("cpu"))
    with pytest.raises(GoldenBatchError, match="in 1 of 16 rows"):
        Scorer(altered(toy_release, tmp_path / "far", risk=far), find_device("cpu"))


@pytest.mark.parametrize(
    ("precision", "tolerance", "accepted"),
    [
        ("float32", 1e-5, True),
        *(
            pytest.param(*case, marks=needs_cpu_with(case[0]))
            for case in [
                ("bfloat16", 1e-5, False),
                ("bfloat16", 5e-2, True),
                ("float16", 1e-7, False),
                ("float16", 1e-2, True),
            ]
        ),
    ],
)
def test_the_golden_tolerance_alone_decides_on_a_precision(
    tmp_path: Path, precision: str, tolerance: float, accepted: bool
) -> None:
    release = write_toy_release(
        tmp_path / "release", module=MatrixRisk(), tolerance={"cpu": tolerance}
    )
    device = find_device("cpu", precision)

    if not accepted:
        with pytest.raises(GoldenBatchError, match=f"on .* in {precision}"):
            Scorer(release, device)
        return
    outputs, _ = Scorer(release, device).score(packed())

    expected = ToyRisk()(torch.from_numpy(packed().T)).numpy()
    np.testing.assert_allclose(outputs["risk"], expected, atol=2 * tolerance)


@needs_cpu_with("bfloat16")
def test_a_tolerance_for_a_precision_leaves_float32_as_strict_as_it_was(
    tmp_path: Path,
) -> None:
    release = write_toy_release(
        tmp_path / "release",
        module=MatrixRisk(),
        tolerance={"cpu": 1e-5, "cpu bfloat16": 5e-2},
    )
    golden = load_file(release.folder / GOLDEN)["output.risk"]
    off = altered(release, tmp_path / "altered", risk=golden + 1e-3)

    assert Scorer(release, find_device("cpu")).tolerance == 1e-5
    assert Scorer(off, find_device("cpu", "bfloat16")).tolerance == 5e-2
    with pytest.raises(GoldenBatchError, match="expected at most 1e-05"):
        Scorer(off, find_device("cpu"))


@needs_cpu_with("bfloat16")
def test_a_precision_that_is_refused_says_which_tolerance_would_allow_it(
    tmp_path: Path,
) -> None:
    release = write_toy_release(tmp_path / "release", module=MatrixRisk())

    with pytest.raises(GoldenBatchError, match="tolerance for 'cpu bfloat16'"):
        Scorer(release, find_device("cpu", "bfloat16"))


def test_a_device_without_a_tolerance_must_be_exact(tmp_path: Path) -> None:
    release = write_toy_release(
        tmp_path / "release", module=MatrixRisk(), tolerance={"cuda": 1.0}
    )
    golden = load_file(release.folder / GOLDEN)["output.risk"]

    with pytest.raises(GoldenBatchError, match="expected at most 0"):
        Scorer(
            altered(release, tmp_path / "altered", risk=golden + 1e-6),
            find_device("cpu"),
        )


@pytest.mark.parametrize("columns", [2, 4])
def test_a_wrong_number_of_columns_is_refused_when_the_release_loads(
    tmp_path: Path, columns: int
) -> None:
    contract = Contract.model_validate(make_contract().model_dump())
    release = save_release(
        tmp_path / "release",
        name="toy",
        module=Shy(1),
        contract=contract,
        golden_inputs=torch.ones(4, len(contract.features)),
        reference={},
        model_format="safetensors",
        import_path="batch_assets_tests.scoring.test_scorer:Shy",
        arguments={"columns": 1},
    )
    model = release.manifest.model.model_dump() | {"arguments": {"columns": columns}}

    with pytest.raises(
        ReleaseError, match=rf"gave .*{columns}\) for 4 rows; its contract declares 1"
    ):
        Scorer(rehashed(release.folder, model=model), find_device("cpu"))


@pytest.mark.parametrize("how", ["device", "torch", "numpy"])
def test_a_batch_that_does_not_fit_is_halved_and_no_row_moves(
    tmp_path: Path, how: str
) -> None:
    scorer = hungry(tmp_path, rows=30, how=how)
    features = aged(packed())

    outputs, _ = scorer.score(features)

    with torch.inference_mode():
        expected = ToyRisk()(torch.from_numpy(features.T)).numpy()
    np.testing.assert_allclose(outputs["risk"], expected, rtol=1e-6)
    assert asked(scorer) == [100, 50, 25, 25, 25, 25, *[25] * 6, 7]


def test_the_size_that_worked_is_remembered_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = hungry(tmp_path, rows=30)
    assert scorer.batch_rows == 100

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            scorer.score(aged(packed()))

    assert scorer.batch_rows == 25
    assert asked(scorer).count(100) == asked(scorer).count(50) == 1
    (record,) = caplog.records
    assert "ran out of memory at 100 rows a batch" in record.message
    assert "at most 25 rows" in record.message


def test_memory_that_runs_out_in_a_short_batch_halves_the_rows_that_were_tried(
    tmp_path: Path,
) -> None:
    scorer = hungry(tmp_path, rows=30)

    scorer.score(aged(packed(40)))

    assert asked(scorer) == [40, 20, 20]
    assert scorer.batch_rows == 20


def test_threads_share_the_size_and_the_smallest_wins(tmp_path: Path) -> None:
    scorer = hungry(tmp_path, rows=30)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(scorer.score, [aged(packed(r)) for r in [257, 41, 100, 55] * 8]))
    asked(scorer).clear()
    scorer.score(aged(packed()))

    assert max(asked(scorer)) == scorer.batch_rows <= 30
    # A thread that comes late with a bigger size that worked for it changes nothing.
    scorer._remember(100, 50)
    assert scorer.batch_rows <= 30
    assert scorer.batch_rows >= 13  # One halving of the smallest that was too big.


@pytest.mark.parametrize("row", [0, 1, 63, 99, 256])
def test_a_row_that_never_fits_goes_out_and_leaves_the_size_as_it_was(
    tmp_path: Path, row: int
) -> None:
    scorer = hungry(tmp_path, rows=ROWS)

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        scorer.score(aged(packed(), {row: POISON}))

    assert min(asked(scorer)) == 1
    assert scorer.batch_rows == 100


def test_a_row_that_never_fits_does_not_undo_a_size_that_was_found(
    tmp_path: Path,
) -> None:
    scorer = hungry(tmp_path, rows=30)

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        scorer.score(aged(packed(), {200: POISON}))

    assert scorer.batch_rows == 25


def test_another_error_on_the_way_down_goes_out_and_leaves_the_size(
    tmp_path: Path,
) -> None:
    scorer = hungry(tmp_path, rows=30)

    with pytest.raises(RuntimeError, match="no memory of that age"):
        scorer.score(aged(packed(), {80: WRONG}))

    assert scorer.batch_rows == 100


def test_only_memory_that_ran_out_makes_a_batch_smaller(tmp_path: Path) -> None:
    scorer = hungry(tmp_path, rows=ROWS)

    with pytest.raises(RuntimeError, match="no memory of that age"):
        scorer.score(aged(packed(), {80: WRONG}))

    assert asked(scorer) == [100]


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_memory_that_runs_out_inside_torchscript_is_recognised() -> None:
    class Greedy(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return torch.empty([features.size(0) * (1 << 55)])

    with pytest.raises(RuntimeError) as caught:
        torch.jit.script(Greedy())(torch.ones(4, 4))

    assert out_of_memory(caught.value)
    assert not out_of_memory(ValueError(str(caught.value)))
