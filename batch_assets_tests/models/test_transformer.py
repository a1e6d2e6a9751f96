"""Transformers from a local folder: as releases of their own format, and around them."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from batch_assets import Contract, KeySpec, Label, Output, Text, VectorOutput
from batch_assets.errors import ConfigError, ReleaseError, TamperedReleaseError
from batch_assets.models.formats import golden_batch, load_module
from batch_assets.models.post_specs import Argmax, PostProcessing, Softmax
from batch_assets.models.proof import must_prove
from batch_assets.models.release import Release, open_release
from batch_assets.models.transformer import Transformer
from batch_assets.models.writing import save_release
from batch_assets.scoring.device import find_device
from batch_assets.scoring.scorer import Scorer
from batch_assets_tests.releases_by_hand import rehashed
from batch_assets_tests.texts import CLASSES, SPECIAL, WORDS, make_texts, make_tokenizer

WIDTH, LONGEST = 8, 16
KINDS = {
    "vector": transformers.BertModel,
    "logits": transformers.BertForSequenceClassification,
}


def make_folder(folder: Path, gives: str = "vector", **changes: Any) -> Path:
    """A small transformer with random weights, as its own library saves it."""
    arguments = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": LONGEST,
        "num_labels": len(CLASSES),
    }
    torch.manual_seed(1)
    model = KINDS[gives](transformers.BertConfig(**(arguments | changes)))
    # Random weights are small, and all answers alike.
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    model.save_pretrained(folder)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def contract_of(gives: str) -> Contract:
    return Contract(
        key=KeySpec(name="user_id", dtype="int64"),
        inputs=(
            Text(
                name="text", max_length=LONGEST, ids="input_ids", mask="attention_mask"
            ),
        ),
        outputs=(
            (VectorOutput(name="meaning", size=WIDTH),)
            if gives == "vector"
            else (
                Label(name="mood", classes=CLASSES),
                Output(name="sure", min=0, max=1),
            )
        ),
    )


POST = PostProcessing(
    gives=("moods",),
    stages=(
        Softmax(of="moods"),
        Argmax(of="moods", into="mood", confidence="sure"),
    ),
)


def write(folder: Path, module: torch.nn.Module, gives: str, **changes: Any) -> Release:
    arguments: dict[str, Any] = {
        "name": "moods",
        "module": module,
        "contract": contract_of(gives),
        "post": POST if gives == "logits" else None,
        "golden_inputs": {"text": make_texts(20)},
        "tokenizer": make_tokenizer(),
        "model_format": "transformers",
    }
    return save_release(folder, **(arguments | changes))


@pytest.mark.parametrize("model_format", ["transformers", "pt2"])
@pytest.mark.parametrize("gives", ["vector", "logits"])
def test_a_transformer_is_a_release_that_says_what_its_own_library_says(
    tmp_path: Path, gives: str, model_format: Any
) -> None:
    folder = make_folder(tmp_path / "mine", gives)
    module = Transformer(folder, gives=gives, normalize=True)  # type: ignore[arg-type]
    release = write(tmp_path / "release", module, gives, model_format=model_format)
    must_prove(release)
    texts = make_texts(60, seed=9)
    outputs = ask(release, texts)
    own, cut = KINDS[gives].from_pretrained(folder).eval(), make_tokenizer()
    cut.enable_truncation(LONGEST)
    for at, text in enumerate(texts):
        with torch.inference_mode():
            said = own(torch.tensor([cut.encode(text).ids]))
        if gives == "vector":
            mean = said.last_hidden_state[0].mean(dim=0)
            want = (mean / mean.norm()).numpy()
            np.testing.assert_allclose(outputs["meaning"][at], want, 1e-4, 1e-5)
        else:
            shares = said.logits[0].softmax(dim=0).numpy()
            assert outputs["mood"][at] == shares.argmax()
            np.testing.assert_allclose(outputs["sure"][at], shares.max(), 1e-4)


def ask(release: Release, texts: list[str]) -> dict[str, np.ndarray]:
    from batch_assets.models.given_rows import rows_of

    rows = rows_of({"text": texts}, release.contract, "texts")
    return Scorer(release, find_device("cpu")).score(rows)[0]


def test_a_release_holds_weights_and_config_and_the_same_ones_each_time(
    tmp_path: Path,
) -> None:
    digests = []
    for name in ("a", "b"):
        # Where a folder lies, and what else is in it, is no part of the model.
        folder = make_folder(tmp_path / name)
        (folder / "notes.txt").write_text(name)
        release = write(tmp_path / f"release-{name}", Transformer(folder), "vector")
        digests.append(release.digest)
        assert sorted(path.name for path in release.folder.iterdir()) == [
            *("config.json", "golden.safetensors", "model.safetensors"),
            *("release.json", "tokenizer.json"),
        ]
    assert digests[0] == digests[1]
    other = Transformer(folder, pooling="first")
    assert write(tmp_path / "other", other, "vector").digest != digests[0]


def test_a_release_says_what_wrote_it_and_an_older_one_says_nothing(
    tmp_path: Path,
) -> None:
    module = Transformer(make_folder(tmp_path / "mine"))
    # What a caller says of how it is called holds, as for every module of torch.
    release = write(tmp_path / "release", module, "vector", takes="position")
    spec = release.manifest.model
    assert spec.takes == "position"
    assert spec.torch == torch.__version__.split("+")[0]
    assert spec.versions == {
        "safetensors": safetensors.__version__,
        "tokenizers": tokenizers.__version__,
        "transformers": transformers.__version__,
    }
    shutil.copytree(release.folder, tmp_path / "older")
    model = spec.model_dump(mode="json", exclude={"versions"})
    must_prove(rehashed(tmp_path / "older", model=model))


def test_a_release_that_cannot_be_loaded_says_what_wrote_it(tmp_path: Path) -> None:
    module = Transformer(make_folder(tmp_path / "mine"))
    release = write(tmp_path / "release", module, "vector")
    (release.folder / "config.json").write_text('{"model_type": "of a later one"}')
    wrote = (
        f"by torch .*, safetensors .*, transformers {transformers.__version__}; this"
    )
    with pytest.raises(ReleaseError, match=wrote):
        load_module(rehashed(release.folder), torch.device("cpu"))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_altered_file_is_refused(tmp_path: Path, name: str) -> None:
    module = Transformer(make_folder(tmp_path / "mine"))
    release = write(tmp_path / "release", module, "vector")
    path = release.folder / name
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(TamperedReleaseError, match=f"{name} hashes to"):
        open_release(release.folder, release.digest)


def as_pickle(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def as_remote_code(folder: Path) -> None:
    """One that names a class of its own, whose file says so if it is run."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {
        "model_type": "mine",
        "auto_map": {"AutoConfig": "mine.MyConfig", "AutoModel": "mine.MyModel"},
    }
    path.write_text(json.dumps(config))
    (folder / "mine.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
    )


def without_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, path, {"format": "pt"})


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def of_a_folder_that_is_not_there(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (as_pickle, "weights as safetensors"),
        (as_remote_code, "no transformer can be loaded"),
        (without_weights, "lacks 1 weights of a BertModel, such as 'encoder"),
        (without_config, "Expected a folder with config.json"),
        (of_a_folder_that_is_not_there, "Expected a folder with config.json"),
    ],
)
def test_what_is_no_whole_transformer_is_refused_and_runs_nothing(
    tmp_path: Path, spoil: Any, why: str
) -> None:
    folder = make_folder(tmp_path / "mine")
    spoil(folder)
    with pytest.raises(ReleaseError, match=why):
        Transformer(folder)
    assert not list(tmp_path.rglob("ran"))


def test_a_classifier_that_was_never_trained_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine", "vector")
    with pytest.raises(ReleaseError, match=r"'classifier\.bias', which would be drawn"):
        Transformer(folder, gives="logits")


def test_a_folder_without_a_pooler_gives_vectors_all_the_same(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    path = folder / "model.safetensors"
    weights = load_file(path)
    kept = {name: one for name, one in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, path, {"format": "pt"})
    write(tmp_path / "release", Transformer(folder), "vector")


def test_half_precision_weights_are_computed_in_float32(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    path = folder / "model.safetensors"
    half = {name: one.half() for name, one in load_file(path).items()}
    save_file(half, path, {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | {"dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    release = write(tmp_path / "release", Transformer(folder), "vector")
    module = load_module(release, torch.device("cpu"))
    assert {one.dtype for one in module.parameters()} == {torch.float32}


def test_a_module_that_is_no_transformer_is_told_which_one_is(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "mine")
    bare = transformers.BertModel.from_pretrained(folder)
    with pytest.raises(
        ReleaseError, match="the module is a BertModel: load it by that"
    ):
        write(tmp_path / "release", bare, "vector")


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_one_clear_error(
    tmp_path: Path,
) -> None:
    more: tokenizers.Tokenizer = make_tokenizer((*WORDS, "more"))
    module = Transformer(make_folder(tmp_path / "mine"))
    with pytest.raises(ReleaseError, match="has its embedding fewer rows"):
        write(tmp_path / "release", module, "vector", tokenizer=more)


def test_a_max_length_beyond_the_positions_is_one_clear_error(tmp_path: Path) -> None:
    module = Transformer(
        make_folder(tmp_path / "mine", max_position_embeddings=LONGEST - 1)
    )
    with pytest.raises(ReleaseError, match="does not take 16 tokens as 'text'"):
        write(tmp_path / "release", module, "vector")


def test_without_transformers_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Transformer(make_folder(tmp_path / "mine"))
    release = write(tmp_path / "release", module, "vector")
    monkeypatch.setitem(sys.modules, "transformers", None)
    why = r"pip install 'batch-assets\[transformers\]'"
    with pytest.raises(ConfigError, match=why):
        Transformer(tmp_path / "mine")
    with pytest.raises(ReleaseError, match=why):
        load_module(release, torch.device("cpu"))


def test_a_transformer_answers_each_text_alone_as_beside_others(tmp_path: Path) -> None:
    module = Transformer(make_folder(tmp_path / "mine"))
    release = write(tmp_path / "release", module, "vector")
    rows, recorded = golden_batch(release)
    for batch_rows in ("1", "3", "4096"):
        scorer = Scorer(release, find_device("cpu", batch_rows=batch_rows))
        outputs, _ = scorer.score(rows.take(np.arange(100) % len(rows)))
        want = recorded["meaning"].numpy()[np.arange(100) % len(rows)]
        np.testing.assert_allclose(outputs["meaning"], want, 1e-5, 1e-5)
