"""A release in one call, from a model and the frame that it was trained on."""

import json
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner

from batch_assets import (
    Contract,
    Feature,
    Ids,
    KeySpec,
    Label,
    Output,
    VectorOutput,
    draft_release,
    pack,
    write_release,
)
from batch_assets.cli.main import main
from batch_assets.errors import BatchAssetsError, ContractError
from batch_assets.lake.tables import Lake
from batch_assets.models.formats import golden_batch, load_module
from batch_assets.models.post_specs import Argmax, PostProcessing
from batch_assets.models.registry import Registry
from batch_assets_tests.nights import score
from batch_assets_tests.toys import copy_rows, validate
from batch_assets_tests.training.frames import (
    COMMON,
    DAYS,
    ROWS,
    Named,
    Net,
    OfADict,
    Paired,
    TwoHeaded,
    make_frame,
)


def write(folder: Path, model: Any, frame: Any = None, **options: Any) -> Any:
    frame = make_frame() if frame is None else frame
    return write_release(model, frame, folder=folder, **(COMMON | options))


def test_contract_golden_rows_and_reference_come_from_the_frame(tmp_path: Path) -> None:
    frame = make_frame()
    release = write(tmp_path / "r", Net(), frame, outputs=["risk", "upsell"])

    contract = release.contract
    assert contract.output_names == ["risk", "upsell"]
    assert contract.feature_names == ["age", "spend", "plan", "active"]
    rows, outputs = golden_batch(release)
    assert len(rows) == 64
    with torch.inference_mode():
        want = Net()(pack(contract, frame)["features"])
    # The first and the last row of the frame are among the golden ones.
    torch.testing.assert_close(outputs["risk"][[0, -1]], want[[0, -1], 0])
    reference = release.manifest.reference["risk"]
    assert sum(reference.counts) == ROWS
    assert len(reference.daily_psi) == len(DAYS)
    quantiles = np.quantile(want[:, 0].numpy().astype(np.float64), [0.25, 0.75])
    assert all(np.isclose(reference.edges, q, rtol=1e-5).any() for q in quantiles)


@pytest.mark.parametrize(
    ("model", "options", "outputs"),
    [
        (
            Named(),
            {},
            [
                Output(name="risk"),
                Output(name="score", dtype="float64"),
                VectorOutput(name="profile", size=4),
            ],
        ),
        (Named(), {"outputs": "risk"}, [Output(name="risk")]),
        (
            Named(),
            {"outputs": ["profile", Output(name="risk", min=0, max=1)]},
            [VectorOutput(name="profile", size=4), Output(name="risk", min=0, max=1)],
        ),
        (Paired(), {}, [Output(name="risk"), Output(name="best", dtype="int64")]),
        (TwoHeaded(), {}, [Output(name="risk"), Output(name="upsell")]),
        (TwoHeaded(), {"outputs": ["upsell"]}, [Output(name="upsell")]),
        (OfADict(), {"outputs": ["a", "b"], "takes": "dict"}, [Output(name="a"), Output(name="b")]),
    ],
    ids=str,
)  # fmt: skip
def test_heads_are_matched_by_name_and_stored_so_that_no_class_is_needed(
    tmp_path: Path, model: Any, options: dict[str, Any], outputs: list[Any]
) -> None:
    release = write(tmp_path / "r", model, **options)

    assert list(release.contract.outputs) == outputs
    # In a process of its own, which knows none of the classes of these tests.
    registry = Registry(tmp_path / "root")
    registry.add(release.folder)
    registry.approve("churn", release.digest, why="a test", by="ada")
    asked = pack(release.contract, make_frame())
    module = load_module(release, torch.device("cpu"))
    with torch.inference_mode():
        given, want = module(*asked.values()), model.eval()(*_taken(options, asked))
    first = given[0] if isinstance(given, tuple) else given[:, 0]
    named = outputs[0].name
    if isinstance(want, dict):
        expected = want[named]
    else:
        expected = getattr(want, named) if hasattr(want, named) else want[:, 0]
    torch.testing.assert_close(first.reshape(expected.shape), expected)


def _taken(options: dict[str, Any], asked: dict[str, torch.Tensor]) -> tuple[Any, ...]:
    return (asked,) if options.get("takes") == "dict" else tuple(asked.values())


def test_a_night_is_scored_by_it(root: Path, tmp_path: Path) -> None:
    frame = make_frame().rename({"customer": "user_id"})
    release = write(tmp_path / "r", Named(), frame, key="user_id")
    rows = frame.drop("late", "day").with_columns(pl.col("spend").fill_nan(None))
    lake = Lake(root, "toy")
    copy_rows(lake, rows.to_arrow(), contract=release.contract)
    validate(lake, contract=release.contract)
    score(lake, release)

    found = duckdb.from_arrow(lake.predictions.dataset()).order("user_id")
    found = found.to_arrow_table()
    by_key = frame.sort("user_id")
    with torch.inference_mode():
        want = Named()(pack(release.contract, by_key)["features"])
    np.testing.assert_allclose(found["risk"].to_numpy(), want["risk"], rtol=1e-5)
    np.testing.assert_allclose(
        found["score"].to_numpy(), want["score"][:, 0], rtol=1e-5
    )
    np.testing.assert_allclose(found["profile"].to_pylist(), want["profile"], rtol=1e-5)


def test_what_a_caller_says_goes_before_what_the_frame_tells(tmp_path: Path) -> None:
    frame = make_frame()
    contract = Contract(
        key=KeySpec(name="customer", dtype="string"),
        features=tuple(
            Feature(name=name, dtype="float64", nullable=True)
            for name in ("age", "spend")
        ),
        outputs=(Output(name="risk"),),
    )
    values = np.linspace(0, 1, 100)
    golden = torch.zeros(3, 2)
    release = write_release(
        torch.nn.Linear(2, 1),
        frame.with_columns(spend=pl.col("spend").fill_nan(1)),
        folder=tmp_path / "r",
        name="mine",
        contract=contract,
        golden_inputs=golden,
        reference={"risk": values},
        reference_days=np.repeat([1, 2], 50),
        about={"who": "ada"},
        tolerance={"cpu": 1e-3},
    )
    assert release.contract == contract
    assert release.manifest.golden.rows == 3
    assert sum(release.manifest.reference["risk"].counts) == 100
    assert release.manifest.about == {"who": "ada"}


def test_an_output_that_is_declared_alone_stays_as_it_is_declared(
    tmp_path: Path,
) -> None:
    declared = Output(name="risk", min=0, max=1)
    for outputs in (declared, [declared], (declared,)):
        release = write(tmp_path / "r", Named(), outputs=outputs)
        assert release.contract.outputs == (declared,)


def test_each_part_of_a_model_is_left_in_its_mode_and_a_lazy_frame_computed_once(
    tmp_path: Path,
) -> None:
    model, computed = Net().train(), []
    model.layer.eval()  # As a part that is frozen is, in training.
    lazy = make_frame().lazy().map_batches(lambda df: computed.append(1) or df)
    write(tmp_path / "r", model, lazy, outputs=["a", "b"])
    assert (model.training, model.layer.training) == (True, False)
    assert computed == [1]


def test_stages_and_labels_go_with_it(tmp_path: Path) -> None:
    post = PostProcessing(
        gives=("shares",),
        stages=(Argmax(of="shares", into="verdict", confidence="sure"),),
    )
    release = write(
        tmp_path / "r",
        Net(),
        outputs=[Label(name="verdict", classes=("stays", "goes")), "sure"],
        post=post,
    )
    assert [one.name for one in release.contract.outputs] == ["verdict", "sure"]
    assert set(release.manifest.reference) == {"verdict", "sure"}


def test_rows_that_break_a_rule_are_left_out_and_told(tmp_path: Path) -> None:
    frame = make_frame()
    features = [Feature(name="age", dtype="int16", min=30)]
    draft = draft_release(Net(), frame, outputs=["a", "b"], features=features, **COMMON)
    young = (frame["age"] < 30).sum()
    assert draft.left_out == {"age is below min": young}
    assert draft.usual is not None
    assert len(draft.usual) == ROWS - young
    assert len(draft.days) == ROWS - young
    features = [Feature(name="age", dtype="int16", min=300)]
    with pytest.raises(ContractError, match="0 of 600 rows of the frame keep"):
        draft_release(Net(), frame, outputs=["a", "b"], features=features, **COMMON)


def test_a_small_frame_has_no_reference_and_the_same_frame_the_same_digest(
    tmp_path: Path,
) -> None:
    small = make_frame(15)
    release = write(tmp_path / "r", Net(), small, outputs=["a", "b"])
    assert release.manifest.reference == {}
    assert release.manifest.golden.rows == 15
    frame = make_frame()
    one = write(tmp_path / "one", Net(), frame, outputs=["a", "b"])
    for other in (frame.to_pandas(), frame.to_arrow()):
        assert (
            write(tmp_path / "two", Net(), other, outputs=["a", "b"]).digest
            == one.digest
        )


class Wrong(torch.nn.Module):
    """Gives whatever a test lets it give."""

    def __init__(self, gives: Any) -> None:
        super().__init__()
        self.gives = gives

    def forward(self, features: torch.Tensor) -> Any:
        return self.gives(features)


class TwoTensors(torch.nn.Module):
    def forward(self, numbers: torch.Tensor, words: torch.Tensor) -> Any:
        return numbers[:, 0] + words[:, 0]


class OneMore(Net):
    def forward(self, features: torch.Tensor, scale: torch.Tensor) -> Any:
        return super().forward(features)[:, 0] * scale


class NeedsAFrame(torch.nn.Module):
    def forward(self, frame: Any) -> Any:
        return frame["age"]


WRONG_MODELS: list[tuple[str, Any, dict[str, Any], str]] = [
    ("a word", "model.pt", {}, "model.pt is no file, expected the path of an .onnx file"),
    ("a state dict", Net().state_dict(), {}, "the model is a OrderedDict, expected"),
    ("a class", Net, {}, "the model is the class Net, expected"),
    ("too many columns", Net(), {}, r"gave a tensor of the shape \(64, 2\) .*risk \(rows,\).*out\[:, 1\]"),
    ("too few columns", Net(), {"outputs": ["a", "b", "c"]}, r"declares 3: a \(rows,\), b.*No adapter"),
    ("no names", Net(), {"outputs": None}, r"\(64, 2\), which has no names: .*outputs="),
    ("other names", Named(), {"outputs": ["nope"]}, r"a dict of the tensors {'risk': .*return {'nope': out\['risk'\]}"),
    ("other fields", TwoHeaded(), {"outputs": ["nope"]}, r"a Heads of the tensors .*out\.risk"),
    ("two tensors", TwoTensors(), {}, r"features float32 \(64, 4\) .*'words'.*numbers=\.\.\., words="),
    ("one more tensor", OneMore(), {}, r"'scale'.*features=features, scale=\.\.\."),
    ("no dict", Net(), {"takes": "dict", "outputs": ["a", "b"]}, r"\(64, 4\) on the CPU, in a dict.*features=\.\.\."),
    ("its length", Wrong(lambda x: torch.zeros(len(x))), {}, r"constant \(64\).*not len\(tensor\)"),
    ("a tuple", Wrong(lambda x: (x[:, 0], x[:, 1])), {}, "gave 2 columns of the shapes"),
    ("by name", Net(), {"takes": "name", "outputs": ["a", "b"], "rename": True}, "by name"),
    ("other width", torch.nn.Linear(3, 1), {}, r"raises on 64 rows, features float32 \(64, 4\)"),
    ("a frame", NeedsAFrame(), {}, "raises on 64 rows, features"),
    ("numpy", Wrong(lambda x: x[:, 0].numpy()), {}, "gave a ndarray for 64 rows"),
    ("nothing", Wrong(lambda x: None), {}, "gave a NoneType for 64 rows"),
    ("one number", Wrong(lambda x: x.nan_to_num().mean()), {}, r"a tensor of the shape \(\)"),
    ("NaN", Wrong(lambda x: x[:, 1] * torch.nan), {}, "golden rows are not as declared: .*nan"),
    ("complex", Wrong(lambda x: x[:, 0] * 1j), {}, "declared float32, the model gave complex64"),
    ("out of range", Net(), {"outputs": [Output(name="a", min=0, max=0.1), "b"]}, "declares 0 to 0.1"),
    ("over the batch", Wrong(lambda x: x[:, 0] - x[:, 0].mean()), {}, "depends on more than the row"),
    ("random", Wrong(lambda x: x[:, 0] + torch.rand(len(x))), {}, "depends on more than the row"),
    ("one size alone", Wrong(lambda x: x[:, 0] + torch.zeros(64)), {}, "not in reverse|not alone|constant|raises on"),
]  # fmt: skip


# With what is filled in where an adapter says `...`, in its order.
ADAPTED: dict[str, tuple[str, ...]] = {
    "too many columns": (),
    "other names": (),
    "other fields": (),
    "a tuple": (),
    "by name": (),
    "two tensors": ("features[:, :2]", "features[:, 2:]"),
    "one more tensor": ("features[:, 0]",),
    "no dict": ("given['features']",),
    "other width": ("features[:, [0, 2, 3]]",),
    "a frame": ("{'age': features[:, 0]}",),
}


@pytest.mark.parametrize(
    ("case", "model", "options", "said"),
    WRONG_MODELS,
    ids=[case[0] for case in WRONG_MODELS],
)
def test_a_wrong_model_is_one_sentence_and_its_adapter_is_released(
    tmp_path: Path, case: str, model: Any, options: dict[str, Any], said: str
) -> None:
    options = {"outputs": "risk"} | options
    if options.pop("rename", False):
        model.forward = lambda x: torch.zeros(x.shape[0], 2)
    if options["outputs"] is None:
        del options["outputs"]
    with pytest.raises(BatchAssetsError, match=f"(?s){said}") as error:
        write(tmp_path / "r", model, **options)
    assert not (tmp_path / "r").exists()
    sentence, shown, code = str(error.value).partition("\nclass Adapter")
    # What came, and what was expected of it; then the adapter, if one can help.
    assert re.fullmatch(
        r"(no release of 'churn' was written: |the model gave ).+", sentence
    )
    assert re.search(
        "expected|declare|allowed|any number|If it takes|outputs=", sentence
    )
    assert bool(code) == (case in ADAPTED)
    if code:
        names: dict[str, Any] = {"torch": torch}
        exec(_filled(shown + code, ADAPTED[case]), names)
        release = write(tmp_path / "r", names["Adapter"](model), **options)
        assert (
            release.contract.output_names == np.atleast_1d(options["outputs"]).tolist()
        )


def _filled(code: str, by: tuple[str, ...]) -> str:
    """An adapter with what its writer puts where it says `...`."""
    assert code.count("...") == len(by)
    for one in by:
        code = code.replace("...", one, 1)
    return code


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": None}, r"Give the column as key=.*its columns are \['customer'"),
        ({"name": None}, "a release has a name"),
        ({"day": "when"}, "no column 'when'|has no"),
        ({"frame": None}, "without a frame, give contract and golden_inputs"),
    ],
)
def test_what_lacks_is_asked_for(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    asked: dict[str, Any] = {
        "frame": make_frame(),
        "outputs": ["a", "b"],
        **COMMON,
    } | options
    frame = asked.pop("frame")
    asked = {name: value for name, value in asked.items() if value is not None}
    with pytest.raises(BatchAssetsError, match=said):
        write_release(Net(), frame, folder=tmp_path / "r", **asked)


SCRIPT = """
from batch_assets import draft_release
from batch_assets_tests.training.frames import COMMON, Net, make_frame

def make():
    return draft_release(Net(), make_frame(), outputs=["risk", "upsell"], **COMMON)

def other():
    return Net()

def fails():
    raise ValueError("no data")
"""


def test_from_the_shell_the_contract_is_shown_and_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "train_it.py"
    script.write_text(SCRIPT, encoding="utf-8")
    new = ["release", "new", "--from", f"{script}:make", "--out", str(tmp_path / "r")]
    run = CliRunner()
    said = run.invoke(main, new, input="n\n")
    assert said.exit_code != 0
    assert not (tmp_path / "r").exists()
    for word in (
        "customer",
        "the key",
        "spend",
        "free, max, pro",
        "upsell",
        "64 golden",
    ):
        assert word in said.output
    said = run.invoke(main, new, input="y\n")
    assert said.exit_code == 0, said.output
    assert "release add churn" in said.output
    shown = json.loads(run.invoke(main, [*new, "--yes", "--json"]).output)
    assert shown["name"] == "churn"
    added = Registry(tmp_path / "root").add(tmp_path / "r")
    assert added.digest == shown["digest"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (":other", "gave a Net, expected a draft"),
        (":fails", "raises ValueError: no data"),
        (":nope", "has no function 'nope'"),
        ("", "names no function"),
    ],
)
def test_a_script_that_makes_no_draft_is_one_sentence(
    tmp_path: Path, function: str, said: str
) -> None:
    script = tmp_path / "train_that.py"
    script.write_text(SCRIPT, encoding="utf-8")
    run = CliRunner().invoke(
        main, ["release", "new", "--yes", "--from", f"{script}{function}"]
    )
    assert run.exit_code != 0
    assert said in run.output


def test_arrow_tables_of_several_chunks_are_taken_whole(tmp_path: Path) -> None:
    frame = make_frame().to_arrow()
    several = pa.concat_tables([frame.slice(0, 100), frame.slice(100)])
    whole = write(tmp_path / "a", Net(), frame, outputs=["a", "b"])
    assert (
        write(tmp_path / "b", Net(), several, outputs=["a", "b"]).digest == whole.digest
    )


class OfX(torch.nn.Module):
    """Takes one tensor, under a name that no column has."""

    def forward(self, x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return x.float().reshape(x.shape[0], -1).sum(dim=1) * scale


@pytest.mark.parametrize("column", [[1.0, 2.0, 3.0], 7])
@pytest.mark.parametrize("stored", ["pt2", "safetensors"])
def test_a_single_tensor_needs_no_name_that_the_model_knows(
    column: object, stored: str, tmp_path: Path
) -> None:
    frame = pl.DataFrame({"id": range(70), "seen": [column] * 70})
    if isinstance(column, list):
        frame = frame.cast({"seen": pl.Array(pl.Float32, 3)})
    said = (
        {"features": (), "inputs": [Ids(name="seen", dtype="int64", size=10)]}
        if isinstance(column, int)
        else {}
    )
    path = f"{__name__}:OfX" if stored == "safetensors" else None
    release = write_release(
        OfX(),
        frame,
        folder=tmp_path / "r",
        name="x",
        key="id",
        outputs="sum",
        model_format=stored,
        import_path=path,
        **said,
    )
    assert release.manifest.model.takes == "position"
    _, outputs = golden_batch(release)
    assert set(outputs["sum"].tolist()) == {2.0 * np.sum(column)}
