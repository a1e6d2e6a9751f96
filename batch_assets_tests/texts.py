"""A toy model of texts, its tokenizer, and rows for it.

Its words are those of a tiny vocabulary; all others are one unknown word. What the model
says is computed here a second time, row by row, from the tokenizer's own ids.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors

from batch_assets import Contract, Feature, KeySpec, Label, Output, Text, VectorOutput
from batch_assets.models.post_specs import Argmax, PostProcessing, Softmax
from batch_assets.models.release import Release
from batch_assets.models.writing import save_release

NAME = "texts"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("good", "bad", "film", "book", "the", "a", "was", "not", "very", "i", "read")
CLASSES = ("praise", "blame", "neither")
LONGEST, WIDTH = 12, 4


def make_tokenizer(words: tuple[str, ...] = WORDS) -> tokenizers.Tokenizer:
    """One that cuts at spaces, and has a token for the beginning and the end."""
    ids = {word: number for number, word in enumerate((*SPECIAL, *words))}
    made = tokenizers.Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def make_contract(**changes: Any) -> Contract:
    arguments: dict[str, Any] = {
        "key": KeySpec(name="user_id", dtype="int64"),
        "features": (Feature(name="age", dtype="int16", min=0, max=120),),
        "inputs": (
            Text(name="review", max_length=LONGEST, longest=1_000),
            Text(
                name="title",
                max_length=6,
                keep="tail",
                min_length=0,
                longest=50,
                nullable=True,
                ids="title_ids",
                mask="title_there",
            ),
        ),
        "outputs": (
            VectorOutput(name="meaning", size=WIDTH),
            Label(name="mood", classes=CLASSES),
            Output(name="confidence", min=0, max=1),
        ),
    }
    return Contract(**(arguments | changes))


POST = PostProcessing(
    gives=("meaning", "moods"),
    stages=(
        Softmax(of="moods"),
        Argmax(of="moods", into="mood", confidence="confidence"),
    ),
)


class Moods(torch.nn.Module):
    """Sums over tokens, each weighed by its place."""

    def __init__(self, tokens: int = len(SPECIAL) + len(WORDS)) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.of_token = torch.nn.Embedding(tokens, WIDTH)
        self.last = torch.nn.Linear(WIDTH, len(CLASSES))

    def forward(
        self,
        features: torch.Tensor,
        review: torch.Tensor,
        review_mask: torch.Tensor,
        title_ids: torch.Tensor,
        title_there: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        meaning = self.sum_of(review, review_mask) - self.sum_of(title_ids, title_there)
        return meaning, self.last(meaning) + features / 100

    def sum_of(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        place = 1 + torch.cumsum(mask, dim=1)
        return (self.of_token(ids) * (mask / place).unsqueeze(2)).sum(dim=1)


# Whatever people write.
HARD = (
    "a",
    "👩‍👩‍👧 very good 😀",
    "ספר טוב مرحبا بالعالم",
    " \t\n ",
    "nul \0 nul",
    "e\u0301 é ﬁ ｆｕｌｌ",
    "the " * 200,
    "good",
    "good",
    "\u202eback\u202c",
)


def make_texts(n: int, seed: int = 0) -> list[str]:
    """Texts of 1 to 30 words, and a few hard ones."""
    random = np.random.default_rng(seed)
    words = (*WORDS, "unheard", "Of")
    texts = [" ".join(random.choice(words, k)) for k in random.integers(1, 31, n)]
    for at, hard in zip(random.permutation(n), HARD, strict=False):
        texts[at] = hard
    return texts


def make_rows(n: int, *, seed: int = 0, first: int = 1) -> pa.Table:
    """Valid raw rows with the keys first .. first+n-1, in any order."""
    random = np.random.default_rng(seed)
    titles = [" ".join(random.choice(WORDS, k)) for k in random.integers(0, 9, n)]
    return pa.table(
        {
            "user_id": random.permutation(n) + first,
            "age": random.integers(0, 121, n),
            "review": make_texts(n, seed),
            "title": pa.array(titles, mask=random.random(n) < 0.2),
        },
        schema=make_contract().raw_schema(),
    )


def ids_of(text: str | None, most: int, keep: str) -> list[int]:
    """The ids of a text's tokens, cut by hand between those of its ends."""
    made = make_tokenizer()
    ids = made.encode(text or "", add_special_tokens=False).ids
    room = most - 2
    return [2, *(ids[:room] if keep == "head" else ids[max(len(ids) - room, 0) :]), 3]


def expected(row: dict[str, Any], module: Moods) -> dict[str, Any]:
    """What is to be predicted for a raw row, computed on its own."""
    table = module.of_token.weight.detach().numpy()

    def sum_of(ids: list[int]) -> np.ndarray:
        weights = 1 / (2 + np.arange(len(ids), dtype=np.float32))
        return (table[ids] * weights[:, None]).sum(axis=0)

    meaning = sum_of(ids_of(row["review"], LONGEST, "head"))
    meaning = meaning - sum_of(ids_of(row["title"], 6, "tail"))
    last = module.last.weight.detach().numpy(), module.last.bias.detach().numpy()
    moods = last[0] @ meaning + last[1] + row["age"] / 100
    shares = np.exp(moods) / np.exp(moods).sum()
    return {
        "meaning": meaning,
        "mood": CLASSES[int(shares.argmax())],
        "confidence": shares.max(),
    }


def golden(n: int = 24) -> dict[str, Any]:
    """Golden rows as `save_release` takes them."""
    rows = make_rows(n, seed=3)
    return {
        "features": torch.tensor(rows["age"].to_pylist()).float()[:, None],
        "review": rows["review"].to_pylist(),
        "title": [title or "" for title in rows["title"].to_pylist()],
    }


def write_texts(folder: Path, **changes: Any) -> Release:
    """Write the release; `changes` go to `save_release`."""
    arguments: dict[str, Any] = {
        "name": NAME,
        "module": Moods(),
        "contract": make_contract(),
        "golden_inputs": golden(),
        "post": POST,
        "tokenizer": make_tokenizer(),
    }
    return save_release(folder, **(arguments | changes))
