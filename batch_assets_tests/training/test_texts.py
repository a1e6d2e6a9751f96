"""A model of texts from the frame it was trained on: its release, and its tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from batch_assets import Contract, KeySpec, Output, Text, pack, write_release
from batch_assets.errors import ContractError, ReleaseError
from batch_assets.lake.tables import Lake
from batch_assets_tests.nights import score
from batch_assets_tests.texts import NAME, WORDS, make_texts, make_tokenizer
from batch_assets_tests.toys import copy_rows, read_day, validate

ROWS = 400


class Praise(torch.nn.Module):
    """How much of a text is praise, and how long it is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.of_token = torch.nn.Embedding(4 + len(WORDS), 1)

    def forward(
        self, features: torch.Tensor, text: torch.Tensor, text_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        praise = (self.of_token(text)[:, :, 0] * text_mask).sum(dim=1)
        return {"praise": praise + features[:, 0], "tokens": text_mask.sum(dim=1)}


def make_frame() -> pl.DataFrame:
    random = np.random.default_rng(1)
    return pl.DataFrame(
        {
            "user_id": np.arange(ROWS) + 1,
            "age": random.integers(18, 90, ROWS).astype(np.int16),
            "text": make_texts(ROWS),
        }
    )


OPTIONS: dict[str, Any] = {
    "name": NAME,
    "key": "user_id",
    "inputs": [Text(name="text", max_length=12)],
    "tokenizer": make_tokenizer(),
}


@pytest.mark.parametrize(
    "as_frame",
    [lambda frame: frame, pl.DataFrame.to_pandas, pl.DataFrame.to_arrow],
    ids=["polars", "pandas", "arrow"],
)
def test_a_release_of_texts_is_made_from_a_frame_and_scores_what_was_packed(
    tmp_path: Path, root: Path, as_frame: Any
) -> None:
    frame, model = make_frame(), Praise()
    folder = tmp_path / "release"
    release = write_release(model, as_frame(frame), folder=folder, **OPTIONS)
    contract = release.contract
    assert contract.output_names == ["praise", "tokens"]
    assert set(release.manifest.reference) == {"praise", "tokens"}
    tensors = pack(contract, as_frame(frame), tokenizer=make_tokenizer())
    with torch.inference_mode():
        said = model(**tensors)
    lake = Lake(root, NAME)
    rows = frame.to_arrow().cast(contract.raw_schema())
    copy_rows(lake, rows, contract=contract)
    validate(lake, contract=contract)
    score(lake, release)
    found = read_day(lake, "predictions")
    assert found["tokens"].to_pylist() == said["tokens"].tolist()
    np.testing.assert_allclose(found["praise"], said["praise"], rtol=1e-5, atol=1e-5)


def test_texts_without_their_tokenizer_are_refused(tmp_path: Path) -> None:
    options = {name: one for name, one in OPTIONS.items() if name != "tokenizer"}
    why = "the text 'text', and no tokenizer was given"
    with pytest.raises(ReleaseError, match=why):
        write_release(Praise(), make_frame(), folder=tmp_path / "release", **options)
    contract = Contract(
        key=KeySpec(name="user_id", dtype="int64"),
        inputs=(Text(name="text", max_length=12),),
        outputs=(Output(name="praise"),),
    )
    with pytest.raises(ReleaseError, match=why):
        pack(contract, make_frame())
    assert list(tmp_path.iterdir()) == []


def test_many_words_without_a_declaration_are_told_what_they_may_be() -> None:
    frame = pl.DataFrame(
        {"user_id": range(2_000), "text": [f"text {n}" for n in range(2_000)]}
    )
    with pytest.raises(ContractError, match=r"or texts as Text\(\.\.\.\)"):
        Contract.from_frame(frame, key="user_id", outputs="praise")


def test_texts_that_a_night_would_quarantine_are_named() -> None:
    frame = pa.table({"user_id": [1, 2, 3], "text": ["good", "", None]})
    contract = Contract.from_frame(
        frame,
        key="user_id",
        outputs="praise",
        inputs=[Text(name="text", max_length=8)],
    )
    with pytest.raises(ContractError, match="2 rows .* shorter than 1"):
        pack(contract, frame, tokenizer=make_tokenizer())
