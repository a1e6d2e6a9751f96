"""Whether a model takes whatever its tokenizer may give it: every id, and the most tokens.

Golden texts are few and short. A night has the rare token, and the long text. It knows no
file.
"""

import numpy as np
import torch

from batch_assets.errors import ReleaseError
from batch_assets.models.input_rows import InputRows, Lists
from batch_assets.models.input_specs import Text
from batch_assets.models.release import Manifest
from batch_assets.models.row_independence import ask
from batch_assets.models.tokenizing import Tokenizing


def must_take_every_token(
    module: torch.nn.Module,
    rows: InputRows,
    manifest: Manifest,
    tokenizing: Tokenizing | None,
) -> None:
    """Refuse a model with fewer ids, or fewer positions, than its texts may have.

    Args:
        module: in evaluation mode, on the CPU.
        rows: the golden rows, tokenised.
        manifest: of the release that is written.
        tokenizing: its tokenizer, if it has texts.

    Raises:
        ReleaseError: with the text, and what the model raised.
    """
    if tokenizing is None:
        return
    highest = tokenizing.highest
    for text in manifest.contract.inputs:
        if not isinstance(text, Text) or _raised(module, rows, manifest, text, [0]):
            # What raises on any text is not at fault for this: the golden rows will tell.
            continue
        if raised := _raised(module, rows, manifest, text, [highest]):
            msg = (
                f"the tokenizer's highest id is {highest}, and the model does not take it "
                f"as '{text.name}': has its embedding fewer rows? Give the tokenizer that "
                f"the model was trained with. {raised}"
            )
            raise ReleaseError(msg)
        if raised := _raised(module, rows, manifest, text, [0] * text.max_length):
            msg = (
                f"the model does not take {text.max_length} tokens as '{text.name}': has "
                f"it fewer positions? Lower `max_length` of the text. {raised}"
            )
            raise ReleaseError(msg)


def _raised(
    module: torch.nn.Module,
    rows: InputRows,
    manifest: Manifest,
    text: Text,
    tokens: list[int],
) -> ReleaseError | None:
    """What the model raises on a row of which one text has these tokens, if it does."""
    row = rows.take(np.zeros(1, np.int64))
    asked = dict(row.columns)
    for other in manifest.contract.inputs:
        if isinstance(other, Text):
            asked[other.name] = Lists.of([[0]], "int32")
    asked[text.name] = Lists.of([tokens], "int32")
    try:
        ask(module, InputRows(row.features, asked), manifest)
    except ReleaseError as error:
        return error
    return None
