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
        rows: the golden rows, tokenised, which it answers.
        manifest: of the release that is written.
        tokenizing: its tokenizer, if it has texts.

    Raises:
        ReleaseError: with the text, and what the model raised.
    """
    if tokenizing is None:
        return
    one_row, highest = rows.take(np.zeros(1, np.int64)), tokenizing.highest
    for text in manifest.contract.inputs:
        if not isinstance(text, Text):
            continue
        for tokens, why in (
            (
                np.array([highest]),
                f"the tokenizer's highest id is {highest}, and the model does not take "
                f"it as '{text.name}': has its embedding fewer rows? Give the tokenizer "
                "that the model was trained with",
            ),
            (
                np.full(text.max_length, text.pad),
                f"the model does not take {text.max_length} tokens as '{text.name}': has "
                "it fewer positions? Lower `max_length` of the text",
            ),
        ):
            asked = dict(one_row.columns)
            asked[text.name] = Lists.of([tokens], "int32")
            try:
                ask(module, InputRows(one_row.features, asked), manifest)
            except ReleaseError as error:
                msg = f"{why}. {error}"
                raise ReleaseError(msg) from error
