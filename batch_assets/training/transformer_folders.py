"""A draft from a folder of the Hugging Face layout: a transformer and its tokenizer.

`config.json`, weights as safetensors, `tokenizer.json`; of a sentence model also
`modules.json` and `1_Pooling`. What the folder says of classes, pooling and lengths becomes
the contract. Nothing is asked over the network, and no code of the folder is run.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batch_assets.errors import ReleaseError
from batch_assets.models.contract import Contract, KeySpec
from batch_assets.models.input_specs import Text
from batch_assets.models.output_specs import Label, Output, VectorOutput
from batch_assets.models.post_specs import Argmax, PostProcessing, Softmax
from batch_assets.models.release import CONFIG, TOKENIZER
from batch_assets.models.transformer import Pooling, Transformer
from batch_assets.training.drafts import Draft, Options, draft_release

CLASSIFIES = "ForSequenceClassification"
POOLING = "1_Pooling/config.json"
# Longer texts than a model's own limit are cut; so many tokens if it names none.
TOKENS = 512


def is_transformer(folder: Path) -> bool:
    """Tell whether a folder has the layout."""
    return (folder / CONFIG).is_file()


def draft_from_transformer(
    folder: Path,
    *,
    key: KeySpec,
    text: str,
    frame: Any,
    name: str,
    max_length: int | None = None,
) -> Draft:
    """Draft a release from a folder that holds a transformer.

    A model for the classification of sequences gives a `label`, by the names of its
    config, and the `confidence` in it; any other a `vector`.

    Args:
        folder: with `config.json`, weights as safetensors, and `tokenizer.json`.
        key: the column that names who is scored.
        text: the column that is read.
        frame: usual texts, for golden rows and the reference.
        name: of the release.
        max_length: the tokens that it gets at most; the model's limit if left out.

    Raises:
        ReleaseError: the folder lacks something, or says what can't be done here.
        ContractError: the frame has no such column.
    """
    config = _read(folder / CONFIG)
    _must_have_a_tokenizer(folder)
    takes = Text(
        name=text,
        max_length=max_length or _limit_of(folder, config),
        ids="input_ids",
        mask="attention_mask",
    )
    architectures = [str(one) for one in config.get("architectures") or ()]
    about = {"folder": folder.name, "architectures": architectures}
    options: Options = {}
    if any(one.endswith(CLASSIFIES) for one in architectures):
        model = Transformer(folder, gives="logits")
        outputs: tuple[Any, ...] = (
            Label(name="label", classes=_classes_of(folder, config)),
            Output(name="confidence", min=0, max=1),
        )
        argmax = Argmax(of="logits", into="label", confidence="confidence")
        stages = (Softmax(of="logits"), argmax)
        options["post"] = PostProcessing(gives=("logits",), stages=stages)
    else:
        pooling, normalize = _pooling_of(folder)
        model = Transformer(folder, pooling=pooling, normalize=normalize)
        outputs = (VectorOutput(name="vector", size=int(config["hidden_size"])),)
    options |= {
        "name": name,
        "contract": Contract(key=key, inputs=(takes,), outputs=outputs),
        "model_format": "transformers",
        "tokenizer": folder / TOKENIZER,
        "about": {"transformer": about},
    }
    return draft_release(model, frame, **options)


def _must_have_a_tokenizer(folder: Path) -> None:
    if not (folder / TOKENIZER).is_file():
        msg = (
            f"{folder} has no {TOKENIZER}: save its fast tokenizer there "
            "(AutoTokenizer.from_pretrained(...).save_pretrained(folder))"
        )
        raise ReleaseError(msg)


def _read(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        msg = f"{path} can't be read: {error}"
        raise ReleaseError(msg) from error
    if not isinstance(said, dict):
        msg = f"{path} holds a {type(said).__name__}, expected an object"
        raise ReleaseError(msg)
    return said


def _limit_of(folder: Path, config: Mapping[str, Any]) -> int:
    """The fewest tokens that any of its files names as the most."""
    named = [config.get("max_position_embeddings")]
    for file, field in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        if (folder / file).is_file():
            named.append(_read(folder / file).get(field))
    limits = [int(one) for one in named if isinstance(one, int) and one > 0]
    return min([TOKENS, *limits])


def _classes_of(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label")
    if not isinstance(names, dict) or set(names) != {str(n) for n in range(len(names))}:
        msg = (
            f"{folder / CONFIG} names no classes, or not each of them, as `id2label`: "
            f"got {names}"
        )
        raise ReleaseError(msg)
    return tuple(str(names[str(place)]) for place in range(len(names)))


def _pooling_of(folder: Path) -> tuple[Pooling, bool]:
    """How a sentence model makes one vector of a text's; the mean, if it does not say."""
    modules = folder / "modules.json"
    normalize = modules.is_file() and ".Normalize" in modules.read_text("utf-8")
    if not (folder / POOLING).is_file():
        return "mean", normalize
    chosen = sorted(
        name
        for name, value in _read(folder / POOLING).items()
        if name.startswith("pooling_mode_") and value is True
    )
    known: dict[str, Pooling] = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "first",
    }
    if len(chosen) != 1 or chosen[0] not in known:
        msg = (
            f"{folder / POOLING} pools by {chosen}, expected one of {sorted(known)}: write "
            "a module around the Transformer that pools so (docs/text.md)"
        )
        raise ReleaseError(msg)
    return known[chosen[0]], normalize
