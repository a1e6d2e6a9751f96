"""A folder as Hugging Face lays it out becomes a release that says what it says there."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tokenizers
import torch
from click.testing import CliRunner

from batch_assets import KeySpec, Label, Output, VectorOutput
from batch_assets.cli.main import main
from batch_assets.errors import BatchAssetsError, UnapprovedError
from batch_assets.models.formats import golden_batch
from batch_assets.models.registry import Registry
from batch_assets.models.transformer import Transformer
from batch_assets.training.transformer_folders import draft_from_transformer
from batch_assets_tests.models.test_transformer import WIDTH, make_folder
from batch_assets_tests.texts import CLASSES, make_texts

KEY = KeySpec(name="user_id", dtype="int64")
NAMES = {str(n): name for n, name in enumerate(CLASSES)}


def change(folder: Path, file: str = "config.json", **changes: Any) -> Path:
    path = folder / file
    said = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(said | changes))
    return folder


def draft(folder: Path, **changes: Any) -> Any:
    frame = pl.DataFrame({"message": make_texts(60)})
    asked = {"key": KEY, "text": "message", "frame": frame, "name": "mood"}
    return draft_from_transformer(folder, **(asked | changes))


def said_of(folder: Path, text: str, **arguments: Any) -> torch.Tensor:
    """What the folder's own model says of a text, alone."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(16)
    found = tokenizer.encode(text)
    with torch.inference_mode():
        return Transformer(folder, **arguments)(
            torch.tensor([found.ids]), torch.tensor([found.attention_mask])
        )[0]


def test_a_classifier_gives_its_labels_by_their_names(tmp_path: Path) -> None:
    folder = change(make_folder(tmp_path / "f", "logits"), id2label=NAMES)
    release = draft(folder).write(tmp_path / "release")

    assert release.contract.outputs == (
        Label(name="label", classes=CLASSES),
        Output(name="confidence", min=0, max=1),
    )
    (text,) = release.contract.inputs
    assert (text.name, text.max_length) == ("message", 16)
    assert release.manifest.model.format == "transformers"
    assert release.manifest.about["transformer"]["architectures"] == [
        "BertForSequenceClassification"
    ]
    registry = Registry(tmp_path / "root")
    registry.add(release.folder)
    registry.approve("mood", release.digest, why="a test", by="ada")
    _, outputs = golden_batch(release)
    # The golden rows are spread over the frame: its first text is the first of them.
    shares = said_of(folder, make_texts(60)[0], gives="logits").softmax(dim=0)
    assert int(outputs["label"][0]) == int(shares.argmax())
    assert float(outputs["confidence"][0]) == pytest.approx(
        float(shares.max()), abs=1e-5
    )


@pytest.mark.parametrize(
    ("pooled", "normalize", "arguments"),
    [
        (None, False, {"pooling": "mean"}),
        ("pooling_mode_mean_tokens", True, {"pooling": "mean", "normalize": True}),
        ("pooling_mode_cls_token", False, {"pooling": "first"}),
    ],
)
def test_any_other_gives_a_vector_pooled_as_the_folder_says(
    tmp_path: Path, pooled: str | None, normalize: bool, arguments: dict[str, Any]
) -> None:
    folder = make_folder(tmp_path / "f")
    if pooled:
        change(folder, "1_Pooling/config.json", **{pooled: True, "word_dimension": 8})
    if normalize:
        modules = [{"type": "sentence_transformers.models.Normalize"}]
        (folder / "modules.json").write_text(json.dumps(modules))
    release = draft(folder).write(tmp_path / "release")

    assert release.contract.outputs == (VectorOutput(name="vector", size=WIDTH),)
    _, outputs = golden_batch(release)
    want = said_of(folder, make_texts(60)[0], **arguments)
    np.testing.assert_allclose(outputs["vector"][0], want, atol=1e-5)


@pytest.mark.parametrize(
    ("file", "limit", "most"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 7}, 7),
        ("tokenizer_config.json", {"model_max_length": 9}, 9),
        # What a tokenizer without a limit says.
        ("tokenizer_config.json", {"model_max_length": 10**30}, 16),
    ],
)
def test_a_text_is_as_long_as_the_shortest_limit(
    tmp_path: Path, file: str, limit: dict[str, int], most: int
) -> None:
    folder = change(make_folder(tmp_path / "f"), file, **limit)
    (text,) = draft(folder).contract.inputs
    assert text.max_length == most
    (text,) = draft(folder, max_length=5).contract.inputs
    assert text.max_length == 5


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def of_two_poolings(folder: Path) -> None:
    change(
        folder,
        "1_Pooling/config.json",
        pooling_mode_mean_tokens=True,
        pooling_mode_max_tokens=True,
    )


def of_no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def as_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_tokenizer, "has no tokenizer.json: save its fast tokenizer"),
        (of_two_poolings, r"pools by \\[.*'pooling_mode_max_tokens'.*write a module"),
        (of_no_json, "config.json can't be read"),
        (without_weights, "no transformer can be loaded"),
        (as_a_pickle, "no transformer can be loaded"),
    ],
)
def test_a_folder_that_lacks_something_is_one_sentence(
    tmp_path: Path, spoil: Any, said: str
) -> None:
    folder = make_folder(tmp_path / "f")
    spoil(folder)
    with pytest.raises(BatchAssetsError, match=said.replace("\\\\", "\\")):
        draft(folder)


@pytest.mark.parametrize("names", [None, {"0": "a", "2": "b"}, ["a"]])
def test_a_classifier_without_names_is_refused(tmp_path: Path, names: Any) -> None:
    folder = change(make_folder(tmp_path / "f", "logits"), id2label=names)
    with pytest.raises(
        BatchAssetsError, match="names no classes, or not each|can be loaded"
    ):
        draft(folder)


def test_a_frame_without_the_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BatchAssetsError, match="1 missing: 'other'"):
        draft(make_folder(tmp_path / "f"), text="other")


def test_from_the_shell(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "f")
    rows = tmp_path / "rows.parquet"
    pl.DataFrame({"message": make_texts(40)}).write_parquet(rows)
    command = ["release", "import", str(folder), "--key", "user_id:int64", "--yes"]
    command += ["--name", "mood", "--frame", str(rows), "--out", str(tmp_path / "r")]
    lacking = CliRunner().invoke(main, command)
    assert lacking.exit_code != 0
    assert "Missing option --text" in lacking.output
    done = CliRunner().invoke(main, [*command, "--text", "message"])
    assert done.exit_code == 0, done.output
    assert "up to 16 elements" in done.output
    # An import writes a folder: it registers nothing, and approves nothing.
    registry = Registry(tmp_path / "root")
    assert registry.names() == []
    registry.add(tmp_path / "r")
    assert registry.events("mood") == []
    with pytest.raises(UnapprovedError, match="no release of 'mood' is approved"):
        registry.resolve("mood")
