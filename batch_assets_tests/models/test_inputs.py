"""What a model is called with: each form of each input, from what a user has."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from pydantic import ValidationError

from batch_assets import Column, Contract, Ids, KeySpec, Output, Sequence, Vector
from batch_assets.errors import ReleaseError
from batch_assets.lake.tables import Lake
from batch_assets.models.given_rows import rows_of
from batch_assets.models.input_rows import InputRows, Lists
from batch_assets.models.tensors import tensors_of
from batch_assets.models.writing import save_release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.nights import score
from batch_assets_tests.toys import copy_rows, read_day, validate

WORDS = ("tea", "milk", "naïve", "")


def make_contract(form: str = "padded", **changes: Any) -> Contract:
    arguments: dict[str, Any] = {
        "key": KeySpec(name="user_id", dtype="string"),
        "inputs": (
            Sequence(
                name="history",
                columns=(Column(name="words", dtype="string", vocabulary="words"),),
                max_length=3,
                form=form,
            ),
        ),
        "vocabularies": {"words": WORDS},
        "outputs": (Output(name="sum"),),
    }
    return Contract(**(arguments | changes))


class Padded(torch.nn.Module):
    """The sum of the positions, each one more, by place in the list."""

    def forward(self, words: torch.Tensor, history_mask: torch.Tensor) -> torch.Tensor:
        place = torch.arange(words.shape[1]) + 1
        return ((words + 1) * place * history_mask).sum(dim=1).float()


class Ragged(torch.nn.Module):
    """The same, of values and offsets."""

    def forward(
        self, words: torch.Tensor, history_offsets: torch.Tensor
    ) -> torch.Tensor:
        lengths = history_offsets.diff()
        row = torch.repeat_interleave(
            torch.arange(lengths.shape[0]), lengths, output_size=words.shape[0]
        )
        place = torch.arange(words.shape[0]) - history_offsets[row] + 1
        sums = torch.zeros(lengths.shape[0], dtype=torch.int64)
        return sums.scatter_add(0, row, (words + 1) * place).float()


class RaggedByPosition(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ragged = Ragged()

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return self.ragged(first, second)


GOLDEN = {"words": [[0, 1, 2], [], [3], [2, 2], [1, 0, 3], []]}


def want(words: list[str] | None) -> float:
    kept = [word for word in words or [] if word in WORDS][-3:]
    return sum((WORDS.index(word) + 1) * place for place, word in enumerate(kept, 1))


@pytest.mark.parametrize("model_format", ["pt2", "torchscript", "safetensors"])
@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("form", ["padded", "ragged", "position"])
def test_a_model_gets_its_sequences_as_it_takes_them(
    root: Path, tmp_path: Path, form: str, model_format: Any
) -> None:
    module = {"padded": Padded, "ragged": Ragged, "position": RaggedByPosition}[form]
    contract = make_contract("padded" if form == "padded" else "ragged")
    release = save_release(
        tmp_path / "release",
        name="words",
        module=module(),
        contract=contract,
        golden_inputs=GOLDEN,
        model_format=model_format,
        import_path=f"{__name__}:{module.__name__}",
        takes="position" if form == "position" else "name",
    )
    random = np.random.default_rng(0)
    words = [
        random.choice([*WORDS, "no such word"], count).tolist()
        for count in random.integers(0, 6, 200)
    ]
    rows = pa.table(
        {"user_id": [f"u{n}" for n in range(202)], "words": [*words, [], None]},
        schema=contract.raw_schema(),
    )
    lake = Lake(root, "words")
    copy_rows(lake, rows, contract=contract)
    validate(lake, contract=contract)
    score(lake, release)
    found = read_day(lake, "predictions")
    sums = dict(
        zip(found["user_id"].to_pylist(), found["sum"].to_pylist(), strict=True)
    )
    assert sums == {row["user_id"]: want(row["words"]) for row in rows.to_pylist()}


def test_a_day_and_a_row_without_any_element_are_scored(
    root: Path, tmp_path: Path
) -> None:
    contract = make_contract()
    release = save_release(
        tmp_path / "release",
        name="words",
        module=Padded(),
        contract=contract,
        golden_inputs=GOLDEN,
    )
    lake = Lake(root, "words")
    schema = contract.raw_schema()
    for day, lists in (
        ("2026-01-05", []),
        ("2026-01-06", [[]]),
        ("2026-01-07", [[], None]),
    ):
        rows = pa.table(
            {"user_id": [f"u{n}" for n in range(len(lists))], "words": lists},
            schema=schema,
        )
        copy_rows(lake, rows, contract=contract, day=day, allow_empty=True)
        validate(lake, contract=contract, day=day)
        score(lake, release, day=day)
        assert read_day(lake, "predictions", day)["sum"].to_pylist() == [0] * len(lists)


def test_the_tensors_have_their_names_types_and_shapes() -> None:
    contract = Contract(
        key=KeySpec(name="k", dtype="int64"),
        inputs=(
            Ids(name="store", size=5),
            Vector(name="taste", size=2),
            Sequence(
                name="s",
                columns=(
                    Column(name="a", size=9),
                    Column(name="b", dtype="float32"),
                ),
                max_length=4,
            ),
            Sequence(
                name="r",
                columns=(Column(name="c", size=9),),
                max_length=4,
                form="ragged",
            ),
        ),
        outputs=(Output(name="o"),),
    )
    rows = rows_of(
        {
            "store": [1, 2],
            "taste": [[1.0, 2.0], [3.0, 4.0]],
            "a": [[1], [2, 3]],
            "b": [[0.5], [1.5, 2.5]],
            "c": [[], [7, 8]],
        },
        contract,
        "rows",
    )
    found = {
        name: (str(one.dtype).removeprefix("torch."), one.tolist())
        for name, one in tensors_of(rows, contract).items()
    }
    assert found == {
        "store": ("int64", [1, 2]),
        "taste": ("float32", [[1.0, 2.0], [3.0, 4.0]]),
        "a": ("int64", [[1, 0], [2, 3]]),
        "b": ("float32", [[0.5, 0.0], [1.5, 2.5]]),
        "s_mask": ("bool", [[True, False], [True, True]]),
        "c": ("int64", [7, 8]),
        "r_offsets": ("int64", [0, 0, 2]),
    }


def test_lists_are_cut_and_moved_as_lists_are() -> None:
    plain = [[1, 2], [], [3], [4, 5, 6], []]
    lists = Lists.of(plain, "int64")

    def back(some: Lists) -> list[list[int]]:
        return some.to_arrow().to_pylist()

    assert back(lists) == plain
    assert back(lists.slice(1, 4)) == plain[1:4]
    assert back(lists.slice(1, 4).slice(1, 3)) == plain[2:4]
    order = np.array([3, 1, 0, 3])
    assert back(lists.take(order)) == [plain[at] for at in order]
    assert (
        back(Lists.of_arrow(pa.chunked_array([lists.to_arrow()]).slice(1, 3)))
        == (plain[1:4])
    )
    rows = InputRows(np.empty((0, 5), np.float32), {"a": lists})
    assert len(rows.slice(2, 4)) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, r"golden_inputs has \[\], expected \['words'\]"),
        ({"words": [[0]], "more": [1]}, "expected"),
        (torch.zeros(2, 1), r"golden_inputs has \['features'\], expected \['words'\]"),
        ({"words": [["tea"], ["tea"]]}, "is no tensor: ValueError"),
        ({"words": [[0]]}, "has 1 rows, expected two or more"),
    ],
)
def test_golden_rows_that_are_none_are_one_sentence(
    tmp_path: Path, given: Any, said: str
) -> None:
    with pytest.raises(ReleaseError, match=said):
        save_release(
            tmp_path / "release",
            name="words",
            module=Padded(),
            contract=make_contract(),
            golden_inputs=given,
        )
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"inputs": (Ids(name="a", dtype="string", vocabulary="no"),)},
            "the vocabulary 'no'",
        ),
        ({"inputs": (Ids(name="a", vocabulary="words"),)}, "words .* are string"),
        ({"inputs": (Ids(name="USER_ID", size=3),)}, "named twice"),
        ({"inputs": ()}, "features or inputs"),
        ({"vocabularies": {"words": ("tea", "tea")}}, "none of them twice"),
        ({"vocabularies": {"words": ()}}, "1 to 1,000,000 words"),
    ],
)
def test_a_contract_whose_inputs_do_not_fit_is_refused(
    change: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        make_contract(**change)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ({}, "the vocabulary that they are words of"),
        ({"size": 3, "vocabulary": "words"}, "one of the two"),
        ({"dtype": "string", "size": 3}, "holds strings"),
        ({"dtype": "float32", "size": 3}, "are of ids"),
        ({"size": 3, "min": 0}, "no min or max"),
        ({"size": 3, "unknown": 3}, "below 3"),
        ({"dtype": "float32", "min": 2, "max": 1}, "above max"),
    ],
)
def test_a_column_that_is_no_kind_is_refused(column: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Column(name="a", **column)


def test_a_filter_is_not_cut() -> None:
    with pytest.raises(ValidationError, match="would let through what is gone"):
        Sequence(
            name="s", columns=(Column(name="a", size=3),), max_length=3, given=False
        )


def test_batches_of_one_row_are_those_of_all(tmp_path: Path) -> None:
    release = save_release(
        tmp_path / "release",
        name="words",
        module=Padded(),
        contract=make_contract(),
        golden_inputs=GOLDEN,
    )
    scorer = Scorer(release, find_device("cpu"))
    rows = rows_of({"words": [[0], [], [1, 2, 3], [3]]}, release.contract, "rows")
    together, _ = scorer.score(rows)
    alone = [scorer.score(rows.slice(at, at + 1))[0]["sum"][0] for at in range(4)]
    assert together["sum"].tolist() == alone == [1, 0, 2 + 6 + 12, 4]


def test_rows_that_are_taken_have_one_run_of_memory_per_feature() -> None:
    features = np.arange(40, dtype=np.float32).reshape(4, 10)
    taken = InputRows(features).take(np.array([7, 1, 1]))

    assert isinstance(taken.features, np.ndarray)
    assert taken.features.tolist() == features[:, [7, 1, 1]].tolist()
    assert taken.features.flags.c_contiguous
