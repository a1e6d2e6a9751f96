"""ONNX graphs built by hand: what their inputs get, and which outputs count."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from batch_assets.errors import ReleaseError
from batch_assets.models.contract import Contract, Feature, KeySpec, Output
from batch_assets.models.formats import golden_batch, load_module
from batch_assets.models.input_specs import Column, Ids, Sequence, Text, Vector
from batch_assets.models.release import Release
from batch_assets.models.writing import save_release
from batch_assets_tests.releases_by_hand import relisted
from batch_assets_tests.texts import make_texts, make_tokenizer

CPU = torch.device("cpu")
NUMBERS = {
    "float": TensorProto.FLOAT,
    "double": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}
WORDS = ("red", "blue")


def graph(
    nodes: list[Any],
    inputs: dict[str, tuple[str, list[Any]]],
    outputs: dict[str, tuple[str, list[Any]]],
    constants: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """A graph of nodes (operator, inputs, outputs, attributes)."""

    def infos(of: dict[str, tuple[str, list[Any]]]) -> list[Any]:
        return [
            helper.make_tensor_value_info(name, NUMBERS[kind], shape)
            for name, (kind, shape) in of.items()
        ]

    made = helper.make_graph(
        [
            helper.make_node(kind, given, gives, **attributes)
            for kind, given, gives, attributes in nodes
        ],
        "by hand",
        infos(inputs),
        infos(outputs),
        [onnx.numpy_helper.from_array(v, n) for n, v in (constants or {}).items()],
    )
    return helper.make_model(
        made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9
    )


def contract(*features: Feature, outputs: Any = ("risk",), **more: Any) -> Contract:
    return Contract(
        key=KeySpec(name="user_id", dtype="int64"),
        features=features,
        outputs=tuple(Output(name=name) for name in outputs),
        **more,
    )


AGE = Feature(name="age", dtype="int16")
COLOUR = Feature(name="colour", dtype="string", categories=WORDS)
SPEND = Feature(name="spend", dtype="float32", nullable=True)


def write(folder: Path, model: Any, declared: Contract, golden: Any) -> Release:
    return save_release(
        folder, name="graph", module=model, contract=declared, golden_inputs=golden
    )


def summing(width: Any = 2, rows: Any = "n", kind: str = "float") -> onnx.ModelProto:
    return graph(
        [("ReduceSum", ["x", "axis"], ["y"], {"keepdims": 0})],
        {"x": (kind, [rows, width])},
        {"y": (kind, [rows])},
        {"axis": np.array([1], np.int64)},
    )


def test_one_input_gets_the_matrix_whatever_its_name(tmp_path):
    golden = np.arange(12, dtype=np.float32).reshape(6, 2)
    for width in (2, None, "features"):
        release = write(
            tmp_path / f"{width}", summing(width), contract(AGE, SPEND), golden
        )
        module = load_module(release, CPU)
        assert torch.equal(
            module(torch.from_numpy(golden)), torch.from_numpy(golden.sum(1))
        )


def test_a_path_of_a_file_is_taken_with_the_weights_beside_it(tmp_path):
    model = graph(
        [("MatMul", ["x", "w"], ["risk"], {})],
        {"x": ("float", ["n", 2])},
        {"risk": ("float", ["n", 1])},
        {"w": np.array([[2.0], [3.0]], np.float32)},
    )
    path = tmp_path / "given" / "model.onnx"
    path.parent.mkdir()
    onnx.save_model(
        model,
        path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert (path.parent / "weights.bin").exists()
    golden = np.ones((3, 2), np.float32)

    release = write(tmp_path / "r", path, contract(AGE, SPEND), golden)

    assert set(release.manifest.files) == {"model.onnx", "golden.safetensors"}
    found = load_module(release, CPU)(torch.from_numpy(golden))
    assert found["risk"].tolist() == [[5.0]] * 3
    again = write(tmp_path / "again", str(path), contract(AGE, SPEND), golden)
    assert again.digest == release.digest


def test_weights_outside_of_a_release_are_never_read(tmp_path):
    model = graph(
        [("MatMul", ["x", "w"], ["risk"], {})],
        {"x": ("float", ["n", 2])},
        {"risk": ("float", ["n", 1])},
        {"w": np.array([[2.0], [3.0]], np.float32)},
    )
    made = write(tmp_path / "r", model, contract(AGE, SPEND), np.ones((3, 2)))
    (weights,) = model.graph.initializer
    (tmp_path / "elsewhere.bin").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for place in ("../elsewhere.bin", str(tmp_path / "elsewhere.bin")):
        del weights.external_data[:]
        weights.external_data.add(key="location", value=place)
        folder = tmp_path / "bad"
        folder.mkdir(exist_ok=True)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ReleaseError, match="can't be loaded"):
            load_module(relisted(made, folder), CPU)


def test_each_feature_reaches_the_input_of_its_name_in_its_type(tmp_path):
    whole = Feature(name="visits", dtype="int64", min=0, max=2**24)
    active = Feature(name="active", dtype="bool")
    model = graph(
        [
            ("Equal", ["colour", "red"], ["is_red"], {}),
            ("Cast", ["is_red"], ["red_number"], {"to": TensorProto.DOUBLE}),
            ("Cast", ["visits"], ["many"], {"to": TensorProto.DOUBLE}),
            ("Cast", ["active"], ["on"], {"to": TensorProto.DOUBLE}),
            ("Unsqueeze", ["on", "one"], ["on_column"], {}),
            ("Sum", ["red_number", "many", "on_column", "spend"], ["sum"], {}),
            ("Cast", ["sum"], ["risk"], {"to": TensorProto.FLOAT}),
        ],
        {
            "spend": ("double", ["n", 1]),
            "active": ("bool", ["n"]),
            "colour": ("string", ["n", 1]),
            "visits": ("int64", ["n", 1]),
        },
        {"risk": ("float", ["n", 1])},
        {"red": np.array(["red"], object), "one": np.array([1], np.int64)},
    )
    rows = np.array(
        [[1, 2**24, 0.5, 1], [0, 7, np.nan, 0], [0, 3, 0.25, 1]], np.float32
    )
    declared = contract(COLOUR, whole, SPEND, active)

    release = write(tmp_path / "r", model, declared, rows[[0, 2]])

    found = load_module(release, CPU)(torch.from_numpy(rows))["risk"][:, 0]
    want = [0 + 2.0**24 + 0.5 + 1, np.nan, 1 + 3 + 0.25 + 1]
    np.testing.assert_array_equal(found.numpy(), np.array(want, np.float32))


def test_tensors_of_a_contract_reach_the_inputs_of_their_names(tmp_path):
    declared = contract(
        SPEND,
        inputs=(
            Ids(name="item", size=2**31),
            Vector(kind="vector", name="taste", size=3),
            Sequence(
                name="history",
                columns=(Column(name="seen", size=100),),
                max_length=8,
            ),
        ),
        outputs=("odd", "total"),
    )
    model = graph(
        [
            ("Mod", ["item", "two"], ["rest"], {}),
            ("Cast", ["rest"], ["odd"], {"to": TensorProto.FLOAT}),
            ("Cast", ["seen"], ["as_number"], {"to": TensorProto.FLOAT}),
            ("Cast", ["history_mask"], ["there"], {"to": TensorProto.FLOAT}),
            ("Mul", ["as_number", "there"], ["known"], {}),
            ("ReduceSum", ["known", "axis"], ["histories"], {"keepdims": 0}),
            ("ReduceSum", ["taste", "axis"], ["tastes"], {"keepdims": 0}),
            ("ReduceSum", ["features", "axis"], ["spent"], {"keepdims": 0}),
            ("Sum", ["histories", "tastes", "spent"], ["total"], {}),
        ],
        {
            "features": ("float", ["n", 1]),
            "history_mask": ("bool", ["n", "long"]),
            "seen": ("int64", ["n", "long"]),
            "taste": ("float", ["n", 3]),
            "item": ("int64", ["n"]),
        },
        {"total": ("float", ["n"]), "odd": ("float", ["n"])},
        {"two": np.array(2, np.int64), "axis": np.array([1], np.int64)},
    )
    golden = {
        "features": np.array([[1.0], [2.0], [3.0]]),
        "item": [2**24 + 1, 2**30, 3],
        "taste": np.ones((3, 3)),
        "seen": [[5, 6], [], [7]],
    }

    release = write(tmp_path / "r", model, declared, golden)

    _, outputs = golden_batch(release)
    assert outputs["odd"].tolist() == [1, 0, 1]
    assert outputs["total"].tolist() == [15, 5, 13]


def test_the_tokens_of_a_text_reach_the_inputs_of_their_names(tmp_path):
    text = Text(name="text", max_length=16, ids="input_ids", mask="attention_mask")
    summed = graph(
        [
            ("Mul", ["input_ids", "attention_mask"], ["there"], {}),
            ("ReduceSum", ["there", "axis"], ["whole"], {"keepdims": 0}),
            ("Cast", ["whole"], ["y"], {"to": TensorProto.FLOAT}),
        ],
        {"input_ids": ("int64", ["n", "l"]), "attention_mask": ("int64", ["n", "l"])},
        {"y": ("float", ["n"])},
        {"axis": np.array([1], np.int64)},
    )
    texts, tokenizer = make_texts(8), make_tokenizer()
    release = save_release(
        tmp_path / "r",
        name="graph",
        module=summed,
        contract=contract(inputs=(text,)),
        golden_inputs={"text": texts},
        tokenizer=tokenizer,
    )
    tokenizer.enable_truncation(16)
    want = [float(sum(tokenizer.encode(one).ids)) for one in texts]
    _, outputs = golden_batch(release)
    assert outputs["risk"].tolist() == want


def refusal(tmp_path: Path, model: Any, declared: Contract) -> str:
    golden = np.ones((3, len(declared.features)), np.float32)
    with pytest.raises(ReleaseError) as refused:
        write(tmp_path / "none", model, declared, golden)
    assert not (tmp_path / "none").exists()
    # One sentence, and for some the adapter to write.
    assert "\n" not in str(refused.value).partition("\nclass Adapter")[0]
    return str(refused.value)


def of(feature: str, kind: str, shape: list[Any] | None = None) -> onnx.ModelProto:
    """A graph that takes one feature, and gives a number whatever it is."""
    return graph(
        [
            ("Shape", [feature], ["shape"], {"start": 0, "end": 1}),
            ("ConstantOfShape", ["shape"], ["risk"], {}),
            ("Identity", ["spend"], ["unused"], {}),
        ],
        {feature: (kind, shape or ["n", 1]), "spend": ("float", ["n", 1])},
        {"risk": ("float", ["n"])},
    )


@pytest.mark.parametrize(
    ("model", "features", "told"),
    [
        (
            of("colours", "float"),
            (COLOUR, SPEND),
            "takes 'colours', and the contract has",
        ),
        (of("age", "string"), (AGE, SPEND), "to be of the dtype 'string'"),
        (of("age", "bool"), (AGE, SPEND), "to be of the dtype 'bool'"),
        (of("colour", "string", ["n", 4]), (COLOUR, SPEND), "(rows,) or (rows, 1)"),
        (
            of("visits", "int64"),
            (Feature(name="visits", dtype="int64"), SPEND),
            "a whole number within 2**24 and int64",
        ),
        (
            of("visits", "int64"),
            (Feature(name="visits", dtype="float32"), SPEND),
            "a whole number within 2**24 and int64",
        ),
        (
            of("age", "int32"),
            (AGE.model_copy(update={"nullable": True}), SPEND),
            "it is int16, nullable",
        ),
        (summing(3), (AGE, SPEND), "has 2 features: a matrix of them is tensor(float)"),
        (summing(2, kind="int64"), (AGE, SPEND), "a matrix of them is tensor(float)"),
        (summing(2, rows=1), (AGE, SPEND), "of 1 rows, and a batch has any number"),
        (summing(2, rows=16), (AGE, SPEND), "export it with a dynamic first axis"),
    ],
)
def test_an_input_that_does_not_fit_is_refused(tmp_path, model, features, told):
    assert told in refusal(tmp_path, model, contract(*features))


def test_outputs_are_found_by_name_or_in_their_order(tmp_path):
    def two(first: str, second: str) -> onnx.ModelProto:
        return graph(
            [
                ("ReduceSum", ["x", "axis"], [first], {"keepdims": 0}),
                ("ReduceMax", ["x", "axis"], [second], {"keepdims": 0}),
            ],
            {"x": ("float", ["n", 2])},
            {second: ("float", ["n"]), first: ("float", ["n"])},
            {"axis": np.array([1], np.int64)},
        )

    rows = np.array([[1, 2], [3, 4]], np.float32)
    for number, (model, want) in enumerate(
        (
            (two("total", "most"), {"total": [3, 7], "most": [2, 4]}),
            # The graph gives its second one first.
            (two("a", "b"), {"total": [2, 4], "most": [3, 7]}),
        )
    ):
        declared = contract(AGE, SPEND, outputs=("total", "most"))
        release = write(tmp_path / f"{number}", model, declared, rows)
        _, outputs = golden_batch(release)
        assert {name: one.tolist() for name, one in outputs.items()} == want
    said = refusal(
        tmp_path, two("a", "b"), contract(AGE, SPEND, outputs=("x", "y", "z"))
    )
    assert "gives 'b', 'a', and the release declares 'x', 'y', 'z'" in said


def test_maps_of_a_classifier_are_refused(tmp_path):
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    rows = np.random.default_rng(0).random((50, 2)).astype(np.float32)
    mapped = to_onnx(LogisticRegression().fit(rows, rows[:, 0] > 0.5), rows[:1])

    assert "convert it with the option zipmap=False" in refusal(
        tmp_path, mapped, contract(AGE, SPEND)
    )


def test_a_graph_whose_answers_depend_on_the_rows_beside_is_refused(tmp_path):
    model = graph(
        [
            ("ReduceSum", ["x", "axis"], ["sums"], {"keepdims": 0}),
            ("ReduceMean", ["x"], ["mean"], {"keepdims": 0}),
            ("Sub", ["sums", "mean"], ["risk"], {}),
        ],
        {"x": ("float", ["n", 2])},
        {"risk": ("float", ["n"])},
        {"axis": np.array([1], np.int64)},
    )
    golden = np.arange(8, dtype=np.float32).reshape(4, 2)
    with pytest.raises(ReleaseError, match="depends on more than the row"):
        write(tmp_path / "none", model, contract(AGE, SPEND), golden)
