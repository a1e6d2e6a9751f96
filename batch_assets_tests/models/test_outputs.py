"""What a module gives becomes the declared columns, and no value is another."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batch_assets.errors import ReleaseError, ScoringError
from batch_assets.models.outputs import columns_of
from batch_assets.scoring.device import find_device
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.toys import make_contract, write_toy_release

COMPILES = (
    pytest.mark.slow,
    # torch's own, on the way to its compiler.
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
)
BIG = 5_000_000_000


def declared(dtype: str) -> Any:
    return make_contract(outputs=[{"name": "rank", "dtype": dtype}])


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (torch.tensor([1, BIG]), "int32"),
        (torch.tensor([0, -(2**31) - 1]), "int32"),
        (torch.tensor([1, 2**24 + 1]), "float32"),
        (torch.tensor([1, 2**24 + 1], dtype=torch.int32), "float32"),
        (torch.tensor([1, 2**53 + 1]), "float64"),
        (torch.tensor([1, 2**63 - 1]), "float32"),
        (torch.tensor([1, 2**63 - 1]), "float64"),
        (torch.tensor([1, 2**63 + 1], dtype=torch.uint64), "int64"),
        (torch.tensor([1, 2**31], dtype=torch.uint32), "int32"),
    ],
    ids=str,
)
def test_a_value_that_the_declared_type_cannot_hold_is_refused(
    given: torch.Tensor, dtype: str
) -> None:
    value = given[1].item()

    with pytest.raises(ScoringError, match=rf"'rank' is {value}, which is no {dtype}"):
        columns_of(given, declared(dtype), 2)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (torch.tensor([1 + 2j]), "float32"),
        (torch.tensor([1 + 2j]), "int64"),
        (torch.tensor([1.0], dtype=torch.float64), "float32"),
        (torch.tensor([1.0]), "int64"),
        (torch.tensor([1.0], dtype=torch.bfloat16), "int32"),
        (torch.tensor([1.0]).to_sparse(), "float32"),
        (torch.tensor([1.0], device="meta"), "float32"),
        (torch.zeros(1, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "float32"),
    ],
    ids=str,
)
def test_a_type_that_never_fits_is_refused_with_found_and_declared(
    given: torch.Tensor, dtype: str
) -> None:
    kind = str(given.dtype).removeprefix("torch.")

    with pytest.raises(
        ReleaseError, match=rf"'rank' is declared {dtype}, the model gave {kind}"
    ):
        columns_of(given, declared(dtype), 1)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (torch.tensor([True, False]), "int32"),
        (torch.tensor([True, False]), "float32"),
        (torch.tensor([1.5, float("nan")], dtype=torch.float16), "float32"),
        (torch.tensor([0.1, -0.0]), "float64"),
        (torch.tensor([2**30, -(2**24)]), "float32"),
        (torch.tensor([2**31 - 1, -(2**31)]), "int32"),
        (torch.tensor([255, 0], dtype=torch.uint8), "int32"),
        (torch.tensor([2**40, 7]), "int64"),
    ],
    ids=str,
)
def test_whatever_fits_is_taken_as_it_is(given: torch.Tensor, dtype: str) -> None:
    found = columns_of(given, declared(dtype), 2)["rank"]

    assert found.dtype == getattr(torch, dtype)
    np.testing.assert_array_equal(found.double().numpy(), given.double().numpy())
    assert torch.equal(found.double().signbit(), given.double().signbit())


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"other": torch.zeros(2)}, r"a dict of the tensors \{.other.: \(2,\)\}"),
        (None, "a NoneType"),
        (1.0, "a float"),
        ([0.5, 0.25], r"2 columns of the shapes \['float', 'float'\]"),
        ((torch.zeros(2), torch.zeros(2)), "2 columns of the shapes"),
        ((), "0 columns of the shapes"),
        ((None,), r"1 columns of the shapes \['NoneType'\]"),
        (np.zeros(2), "a ndarray"),
        (torch.tensor(1.0), r"a tensor of the shape \(\)"),
        (torch.zeros(1, 2), r"a tensor of the shape \(1, 2\)"),
        (torch.zeros(2, 2), r"a tensor of the shape \(2, 2\)"),
        (torch.zeros(2, 1, 1), r"a tensor of the shape \(2, 1, 1\)"),
        ((torch.zeros(1, 2),), r"1 columns of the shapes \[\(1, 2\)\]"),
        ((torch.zeros(2, 2),), r"1 columns of the shapes \[\(2, 2\)\]"),
    ],
    ids=repr,
)
def test_what_is_no_column_a_row_is_one_clear_sentence(given: Any, found: str) -> None:
    with pytest.raises(ReleaseError, match=rf"the model gave {found}.* for 2 rows"):
        columns_of(given, declared("float32"), 2)


class Ranks(torch.nn.Module):
    """A whole number, which is too large for an old enough row."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        old = features[:, 0] > 100
        return torch.where(old, BIG, torch.nan_to_num(features[:, 0]).long())


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=COMPILES)])
def test_compiled_or_not_no_value_turns_into_another(
    tmp_path: Path, compiled: bool
) -> None:
    golden = torch.arange(8.0).reshape(2, 4)
    release = write_toy_release(
        tmp_path / "toy",
        module=Ranks(),
        contract=declared("int32"),
        golden_inputs=golden,
        reference={},
    )
    folder = tmp_path / "compiled" if compiled else None
    scorer = Scorer(release, find_device("cpu", compiled=folder))

    found, _ = scorer.score(np.full((4, 3), 7, np.float32))
    assert (found["rank"].dtype, found["rank"].tolist()) == (np.int32, [7, 7, 7])
    with pytest.raises(ScoringError, match="'rank' is 5000000000, which is no int32"):
        scorer.score(np.array([[7, 101]] * 4, np.float32))


class Twins(torch.nn.Module):
    """One tensor for two outputs, and a feature as it is for a third."""

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        risk = features[:, 0] * 2
        return risk, risk, features[:, 1]


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=COMPILES)])
def test_compiled_or_not_a_tensor_may_be_given_twice_and_a_feature_as_it_is(
    tmp_path: Path, compiled: bool
) -> None:
    contract = make_contract(outputs=[{"name": n} for n in ("one", "two", "three")])
    release = write_toy_release(
        tmp_path / "toy",
        module=Twins(),
        contract=contract,
        reference={},
        golden_inputs=torch.arange(8.0).reshape(2, 4),
    )
    folder = tmp_path / "compiled" if compiled else None
    scorer = Scorer(release, find_device("cpu", compiled=folder))
    features = np.arange(20, dtype=np.float32).reshape(4, 5)

    for _ in range(3):
        found, _ = scorer.score(features)
        np.testing.assert_array_equal(found["one"], features[0] * 2)
        np.testing.assert_array_equal(found["two"], features[0] * 2)
        np.testing.assert_array_equal(found["three"], features[1])
