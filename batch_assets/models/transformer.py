"""A transformer from a folder on this machine, as a torch module that gives tensors.

Its folder has `config.json` and weights as safetensors. No code of the folder is run, no
pickle is read, and nobody is asked over the network. This is the only file that imports
transformers. It knows no tokenizer and no approval.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from batch_assets.errors import ConfigError, ReleaseError
from batch_assets.models.release import CONFIG

WEIGHTS = "model.safetensors"
# What reads and writes such a folder, beside torch.
PACKAGES = ("transformers", "tokenizers", "safetensors")
Gives = Literal["vector", "logits"]
Pooling = Literal["mean", "first"]


class Transformer(torch.nn.Module):
    """A transformer that gives a vector for each text, or the logits of its classes.

    It takes `input_ids` and `attention_mask`, (rows, length) each, and gives float32
    (rows, width) or (rows, classes).
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        gives: Gives = "vector",
        pooling: Pooling = "mean",
        normalize: bool = False,
    ) -> None:
        """Load it in float32, in evaluation mode.

        Args:
            folder: with `config.json` and the weights.
            gives: a `vector`, pooled from the last hidden states, or the `logits` of a
                model for the classification of sequences.
            pooling: of a vector: the mean over tokens, or the first token's.
            normalize: whether a vector is made one of length 1.

        Raises:
            ReleaseError: it can't be loaded, or lacks weights.
            ConfigError: the package transformers is not there.
        """
        super().__init__()
        self.arguments: dict[str, Any] = {
            "gives": gives,
            "pooling": pooling,
            "normalize": normalize,
        }
        self.model: Any = _loaded(Path(folder), gives)
        self.gives, self.pooling, self.normalize = gives, pooling, normalize
        self.eval()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        said = self.model(input_ids=input_ids, attention_mask=attention_mask.long())
        if self.gives == "logits":
            logits: torch.Tensor = said.logits
            return logits
        states: torch.Tensor = said.last_hidden_state
        if self.pooling == "mean":
            there = attention_mask.unsqueeze(2).to(states.dtype)
            vector = (states * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)
        else:
            vector = states[:, 0]
        return torch.nn.functional.normalize(vector) if self.normalize else vector

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` into a folder, and nothing else."""
        there = set(folder.iterdir())
        # One file of weights, however large.
        with _quiet():
            self.model.save_pretrained(folder, max_shard_size="1000TB")
        for path in set(folder.iterdir()) - there:
            if path.name not in (WEIGHTS, CONFIG):
                path.unlink()


def arguments_of(module: torch.nn.Module) -> dict[str, Any]:
    """Return what a transformer of a release is loaded with, beside its folder.

    Raises:
        ReleaseError: the module is none.
    """
    if not isinstance(module, Transformer):
        msg = (
            f"a release of the format 'transformers' is a Transformer of "
            f"{__name__}, and the module is a {type(module).__name__}: load it by that, "
            "or write a module around it as pt2. Nothing was written."
        )
        raise ReleaseError(msg)
    return dict(module.arguments)


def versions() -> dict[str, str]:
    """Return which packages write a transformer here, with their versions."""
    return {package: version(package) for package in PACKAGES}


def _loaded(folder: Path, gives: Gives) -> torch.nn.Module:
    try:
        import transformers
    except ModuleNotFoundError as error:
        msg = (
            f"a transformer needs a package that is not installed: {error.name}. "
            "pip install 'batch-assets[transformers]'"
        )
        raise ConfigError(msg) from error
    kind = (
        transformers.AutoModel
        if gives == "vector"
        else transformers.AutoModelForSequenceClassification
    )
    try:
        with _quiet():
            model, info = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
    # It raises whatever its many models raise.
    except Exception as error:
        msg = (
            f"no transformer can be loaded from {folder} by transformers "
            f"{transformers.__version__}: {type(error).__name__}: {error}. Expected a "
            f"folder with {CONFIG} and weights as safetensors."
        )
        raise ReleaseError(msg) from error
    # A vector is taken before the pooler, which some folders come without.
    pooler = "pooler." if gives == "vector" else ()
    lacking = sorted(
        name
        for name in info["missing_keys"]
        if not pooler or not name.startswith(pooler)
    )
    if lacking:
        msg = (
            f"the folder {folder} lacks {len(lacking)} weights of a {type(model).__name__}"
            f", such as '{lacking[0]}', which would be drawn at random. Train it for that "
            "first, or take another `gives`."
        )
        raise ReleaseError(msg)
    module: torch.nn.Module = model
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars and reports of its own: what is wrong is in an error."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
