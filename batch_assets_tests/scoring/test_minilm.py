"""A real sentence model, from a packaged folder to a night that is right and has a meaning."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
import torch
import transformers

from batch_assets import Contract
from batch_assets.lake.tables import Lake
from batch_assets.models.proof import must_prove
from batch_assets.models.release import Release
from batch_assets.spec import GateLimits
from batch_assets_tests.minilm import (
    GOLDEN,
    LONGEST,
    NAME,
    WIDTH,
    folder,
    load,
    make_contract,
    write_sentences,
)
from batch_assets_tests.nights import score
from batch_assets_tests.toys import copy_rows, read_day, validate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ABOUT = {
    "Pasta with tomatoes, and an apple pie afterwards": "food",
    "My savings account pays almost nothing": "money",
    "The striker was substituted at half-time": "sport",
    "Tomorrow will be sunny with a light breeze": "weather",
}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return write_sentences(tmp_path_factory.mktemp("release") / NAME)


def own_vectors(texts: list[str]) -> np.ndarray:
    """What its own library says of each text alone: the mean over tokens, normalised."""
    model = transformers.AutoModel.from_pretrained(folder(), local_files_only=True)
    cut = tokenizers.Tokenizer.from_file(str(folder() / "tokenizer.json"))
    cut.no_padding()
    cut.enable_truncation(LONGEST)
    vectors = []
    for text in texts:
        with torch.inference_mode():
            states = model(torch.tensor([cut.encode(text).ids])).last_hidden_state
        vectors.append((states[0].mean(dim=0)).numpy())
    found = np.array(vectors)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_a_night_gives_each_text_its_vector_and_a_topic_that_it_is_about(
    root: Path, release: Release
) -> None:
    texts = [*ABOUT, *GOLDEN, *ABOUT, "", "x" * 1_000_000]
    rows = pa.table({"user_id": range(len(texts)), "text": texts})
    lake = Lake(root, NAME)
    copy_rows(lake, rows, contract=release.contract)
    validate(lake, contract=release.contract)
    must_prove(release)
    score(lake, release, gates=GateLimits(max_quarantine_share=1))

    bad = read_day(lake, "quarantined_rows")
    assert bad["rules"].to_pylist() == [
        ["text is shorter than 1"],
        ["text is longer than 100000"],
    ]
    found = read_day(lake, "predictions")
    kept = texts[:-2]
    vectors = np.array(found["meaning"].to_pylist())
    assert vectors.shape == (len(kept), WIDTH)
    np.testing.assert_allclose(vectors, own_vectors(kept), rtol=1e-4, atol=1e-5)
    topics = dict(zip(kept, found["topic"].to_pylist(), strict=True))
    assert {text: topics[text] for text in ABOUT} == ABOUT
    # The same text twice is the same vector, wherever it stood.
    assert vectors[: len(ABOUT)].tolist() == vectors[-len(ABOUT) :].tolist()


def test_its_folder_is_a_release_of_transformers_that_gives_the_same_vectors(
    tmp_path: Path, release: Release
) -> None:
    from batch_assets.models.given_rows import rows_of
    from batch_assets.scoring.device import find_device
    from batch_assets.scoring.scorer import Scorer

    whole = make_contract()
    vector = Contract(key=whole.key, inputs=whole.inputs, outputs=whole.outputs[:1])
    own = write_sentences(
        tmp_path / "own",
        module=load(),
        contract=vector,
        post=None,
        model_format="transformers",
    )
    must_prove(own)
    texts = [*ABOUT, *GOLDEN]
    found = [
        Scorer(one, find_device("cpu")).score(
            rows_of({"text": texts}, one.contract, "texts")
        )[0]["meaning"]
        for one in (own, release)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)
