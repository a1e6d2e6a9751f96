"""Releases are refused of models whose answers depend on more than the row."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batch_assets.errors import ReleaseError
from batch_assets.models.formats import load_module
from batch_assets.models.row_independence import ALONE
from batch_assets.scoring.device import find_device
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.toys import (
    ToyRisk,
    features_of,
    golden_tensors,
    make_contract,
    make_rows,
    write_toy_release,
)

ANY = make_contract(outputs=[{"name": "risk"}])


def known(features: torch.Tensor) -> torch.Tensor:
    return torch.nan_to_num(features)


class OverTheBatch(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        given = known(features)
        return (given - given.mean(0)).sum(1)


class Ranked(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return known(features)[:, 0].argsort().argsort().float()


class Normalised(torch.nn.Module):
    """BatchNorm over what it is given, whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.norm(known(features)).sum(1)


class Numbered(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.arange(features.shape[0]).float()


class Counting(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return known(features).sum(1) + self.calls


class Smoothed(torch.nn.Module):
    """Shifted by a mean of all that it was ever asked; slowly."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.seen += 0.01 * (known(features).mean() - self.seen)
        return known(features).sum(1) + self.seen


class Random(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.rand(features.shape[0])


class Dropping(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(known(features), training=True).sum(1)


class Remembering(torch.nn.Module):
    """Keeps answers by where the rows lay in memory, where others lie by then."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[int, torch.Tensor] = {}

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        key = features.shape[0]
        if key not in self.answers:
            self.answers[key] = known(features).sum(1)
        return self.answers[key]


@pytest.mark.parametrize(
    ("module", "way"),
    [
        (OverTheBatch(), "alone"),
        (Ranked(), "alone"),
        (Normalised(), "not alone"),
        (Numbered(), "in reverse order"),
        (Counting(), "a second time"),
        (Smoothed(), "a second time"),
        (Random(), "a second time"),
        (Dropping(), "a second time"),
        (Remembering(), "in reverse order"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_whose_answers_depend_on_more_than_the_row_is_refused(
    tmp_path: Path, module: torch.nn.Module, way: str
) -> None:
    with pytest.raises(ReleaseError, match="no release of 'toy' was written") as error:
        write_toy_release(tmp_path / "toy", module=module, contract=ANY, reference={})

    assert way in str(error.value)
    assert "running statistics" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_row_and_both_values_are_named(tmp_path: Path) -> None:
    rows = torch.tensor([[1.0, 0, 0, 0], [3.0, 0, 0, 0]])

    with pytest.raises(
        ReleaseError, match="'risk' of golden row 1 is 1 together .* and 0 in reverse"
    ):
        write_toy_release(
            tmp_path / "toy",
            module=Numbered(),
            contract=ANY,
            golden_inputs=rows,
            reference={},
        )


def test_many_golden_rows_are_not_each_asked_alone(tmp_path: Path) -> None:
    asked: list[int] = []

    class Noting(ToyRisk):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            if not torch.compiler.is_compiling():
                asked.append(features.shape[0])
            return super().forward(features)

    rows = features_of(make_rows(1_000), make_contract())
    write_toy_release(tmp_path / "toy", module=Noting(), golden_inputs=rows)

    assert 10 < asked.count(1) <= ALONE


class Either(ToyRisk):
    """Another model in training than in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = torch.nn.Dropout(0.5)
        self.norm = torch.nn.BatchNorm1d(4)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return super().forward(self.drop(self.norm(known(features))))


@pytest.mark.parametrize("model_format", ["pt2", "safetensors", "torchscript"])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_module_left_in_training_is_stored_in_evaluation_and_given_back_as_it_was(
    tmp_path: Path, model_format: str
) -> None:
    module = Either()
    module.norm.eval()  # Frozen, as for fine tuning.
    modes = [part.training for part in module.modules()]
    path = f"{__name__}:Either" if model_format == "safetensors" else None

    release = write_toy_release(
        tmp_path / "toy", module=module, model_format=model_format, import_path=path
    )

    assert [part.training for part in module.modules()] == modes
    assert {True, False} == set(modes)
    rows, outputs = golden_tensors(release)
    with torch.inference_mode():
        found = load_module(release, torch.device("cpu"))(rows)
        assert torch.equal(found, outputs["risk"])
        assert torch.equal(found, module.eval()(rows))


# A model that writes into its input


class Writing(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features.nan_to_num_().add_(1)
        return features.sum(1)


@pytest.mark.parametrize("model_format", ["pt2", "safetensors", "torchscript"])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_model_that_writes_into_its_input_changes_nobodys(
    tmp_path: Path, model_format: str
) -> None:
    given = features_of(make_rows(16), make_contract())
    before = given.clone()
    path = f"{__name__}:Writing" if model_format == "safetensors" else None

    release = write_toy_release(
        tmp_path / "toy",
        module=Writing(),
        contract=ANY,
        golden_inputs=given,
        reference={},
        model_format=model_format,
        import_path=path,
    )

    np.testing.assert_array_equal(given.numpy(), before.numpy())
    rows, _ = golden_tensors(release)
    np.testing.assert_array_equal(rows.numpy(), before.numpy())
    scorer = Scorer(release, find_device("cpu"))
    packed = np.ascontiguousarray(before.numpy().T)
    kept = packed.copy()
    first, _ = scorer.score(packed)
    again, _ = scorer.score(packed)
    np.testing.assert_array_equal(packed, kept)
    np.testing.assert_array_equal(first["risk"], again["risk"])


# Golden rows, and what a model may give


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (torch.zeros(0, 4), "has 0 rows, expected two or more"),
        (torch.zeros(1, 4), "has 1 rows, expected two or more"),
        (torch.zeros(4), r"the shape \(4,\), expected \(rows, 4\)"),
        (torch.zeros(4, 5), r"the shape \(4, 5\), expected \(rows, 4\)"),
        ("abc", "is no tensor: TypeError"),
        (np.zeros((2, 3)), r"the shape \(2, 3\), expected \(rows, 4\)"),
    ],
    ids=str,
)
def test_golden_rows_that_prove_nothing_are_refused(
    tmp_path: Path, rows: Any, error: str
) -> None:
    with pytest.raises(ReleaseError, match=error):
        write_toy_release(tmp_path / "toy", golden_inputs=rows)

    assert list(tmp_path.iterdir()) == []


class Raising(torch.nn.Module):
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.half() @ torch.ones(4)


def test_a_model_that_raises_on_golden_rows_is_refused_with_its_reason(
    tmp_path: Path,
) -> None:
    with pytest.raises(ReleaseError, match=r"raises on 16 rows.*RuntimeError: .*Half"):
        write_toy_release(tmp_path / "toy", module=Raising())


class Gives(torch.nn.Module):
    """Whatever a function makes of its rows."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, features: torch.Tensor) -> Any:
        return self.make(known(features))


TWO = make_contract(outputs=[{"name": "risk"}, {"name": "rank"}])


@pytest.mark.parametrize(
    ("make", "contract"),
    [
        (lambda x: (x[:, 0], x[:, 0]), TWO),
        (lambda x: x[:, :1].expand(-1, 2), TWO),
        (lambda x: x.T[:2].T, TWO),
        (lambda x: [x[:, 0], x[:, 1:2]], TWO),
        (lambda x: x[:, 0], ANY),
        (lambda x: torch.zeros(x.shape[0]).requires_grad_(), ANY),
        (lambda x: -torch.zeros(x.shape[0]), ANY),
        (lambda x: x[:, 0].bfloat16(), ANY),
    ],
    ids=["twice", "expanded", "strided", "list", "input", "grad", "-0.0", "bfloat16"],
)
def test_a_model_may_give_its_columns_from_any_memory(
    tmp_path: Path, make: Any, contract: Any
) -> None:
    release = write_toy_release(
        tmp_path / "toy", module=Gives(make), contract=contract, reference={}
    )

    rows, recorded = golden_tensors(release)
    scorer = Scorer(release, find_device("cpu"))
    found, _ = scorer.score(np.ascontiguousarray(rows.numpy().T))
    for name, column in recorded.items():
        np.testing.assert_array_equal(found[name], column.numpy())


def test_an_output_at_the_bound_that_its_type_has_is_in_range(tmp_path: Path) -> None:
    """The nearest float32 to 0.1 is above 0.1."""
    contract = make_contract(outputs=[{"name": "risk", "min": 0, "max": 0.1}])

    release = write_toy_release(
        tmp_path / "toy",
        module=Gives(lambda x: x[:, 0].clamp(0, 0.1)),
        contract=contract,
        reference={},
    )

    assert golden_tensors(release)[1]["risk"].max() == torch.tensor(0.1)
    above = Gives(lambda x: x[:, 0].clamp(0, 0.10000002))
    with pytest.raises(ReleaseError, match=r"the contract declares 0 to 0\.1"):
        write_toy_release(
            tmp_path / "above", module=above, contract=contract, reference={}
        )
