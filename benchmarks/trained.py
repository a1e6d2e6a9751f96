"""Models of five frameworks, trained on the same generated rows, each of its usual size.

The data is generated, from a fixed seed: numbers of which some are missing, and two
categories. A framework is imported where its model is trained or asked.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

FRAMEWORKS = ("xgboost", "lightgbm", "catboost", "sklearn", "onnx")
NUMBERS, CATEGORIES = 28, (("plan", 3), ("country", 20))
NAMES = [f"x{number:02d}" for number in range(NUMBERS)] + [
    name for name, _ in CATEGORIES
]
TRAINING_ROWS = 20_000
PIPELINE, DAY = "frameworks", "2026-01-05"
SHARDS, ROW_GROUP_ROWS, CHUNK_ROWS = 4, 65_536, 262_144

# From float32 (rows, features) to the probability of the second class.
Predict = Callable[[np.ndarray], np.ndarray]


def make_rows(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 (rows, features), and the class of each row."""
    random = np.random.default_rng(seed)
    numbers = random.standard_normal((rows, NUMBERS), np.float32)
    categories = [random.integers(0, size, rows) for _, size in CATEGORIES]
    score = numbers[:, :8] @ np.linspace(1, -1, 8, dtype=np.float32)
    score += numbers[:, 8] * numbers[:, 9] + (categories[0] == 1) - categories[1] / 10
    classes = score + random.standard_normal(rows) > 0
    numbers[random.random(numbers.shape) < 0.05] = np.nan
    matrix = np.column_stack([numbers, *categories]).astype(np.float32)
    return matrix, classes.astype(np.int64)


def train(framework: str) -> Any:
    """A model as its framework trains it where nothing is said."""
    rows, classes = make_rows(TRAINING_ROWS, seed=7)
    match framework:
        case "xgboost":
            import xgboost

            return xgboost.XGBClassifier().fit(rows, classes)
        case "lightgbm":
            import lightgbm

            return lightgbm.LGBMClassifier(verbose=-1).fit(rows, classes)
        case "catboost":
            import catboost

            model = catboost.CatBoostClassifier(verbose=0, allow_writing_files=False)
            return model.fit(rows, classes)
        case "sklearn":
            from sklearn.ensemble import HistGradientBoostingClassifier

            # Its rounds all, and the same each time: it would stop by rows drawn at random.
            last = HistGradientBoostingClassifier(early_stopping=False)
            return _pipeline(last).fit(rows, classes)
        case _:
            from sklearn.neural_network import MLPClassifier

            return _pipeline(MLPClassifier((64, 64), max_iter=5)).fit(rows, classes)


def _pipeline(last: Any) -> Any:
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer(
        (numbers, list(range(NUMBERS))),
        (OneHotEncoder(sparse_output=False), list(range(NUMBERS, len(NAMES)))),
    )
    return make_pipeline(columns, last)


def loaded(framework: str, path: Path) -> Predict:
    """A model as its framework reads it from a file, asked on all cores as it likes."""
    match framework:
        case "xgboost":
            import xgboost

            trees = xgboost.XGBClassifier()
            trees.load_model(path)
            return lambda rows: trees.predict_proba(rows)[:, 1]
        case "lightgbm":
            import lightgbm

            booster = lightgbm.Booster(model_file=path)
            return lambda rows: booster.predict(rows)
        case "catboost":
            import catboost

            model = catboost.CatBoostClassifier()
            model.load_model(str(path))
            return lambda rows: model.predict_proba(rows)[:, 1]
        case "sklearn":
            # Its own file would be a pickle: it is trained again, and that is not timed.
            pipeline = train(framework)
            return lambda rows: pipeline.predict_proba(rows)[:, 1]
        case _:
            import onnxruntime as runtime

            session = runtime.InferenceSession(str(path))
            name = session.get_inputs()[0].name
            return lambda rows: session.run(None, {name: rows})[1][:, 1]


def prepare(root: Path, rows: int, models: Mapping[str, Any]) -> None:
    """Write a release of each framework, and the rows as a night leaves them, validated."""
    from batch_assets import Contract, Feature, KeySpec, Output
    from batch_assets.lake.day_run import DayRun
    from batch_assets.lake.tables import Lake
    from batch_assets.models.registry import Registry
    from batch_assets.models.writing import save_release
    from benchmarks.validated import write_validated

    root.mkdir(parents=True)
    contract = Contract(
        key=KeySpec(name="user_id", dtype="int64"),
        features=tuple(
            Feature(name=name, dtype="float32", nullable=True) for name in NAMES
        ),
        outputs=(Output(name="risk", min=0, max=1),),
    )
    versions, registry = {}, Registry(root)
    for framework, model in models.items():
        release = save_release(
            root / "releases" / framework,
            name=framework,
            module=model,
            contract=contract,
            golden_inputs=make_rows(64, seed=1)[0],
            about={"data": "generated"},
        )
        registry.add(release.folder)
        registry.approve(framework, release.digest, why="benchmark")
        versions[framework] = release.digest
    matrix, _ = make_rows(rows, seed=11)
    keys = np.random.default_rng(11).permutation(rows)
    columns = [pa.array(one, from_pandas=True) for one in matrix.T]
    table = pa.table([pa.array(keys), *columns], names=["user_id", *NAMES])
    write_validated(
        root,
        DayRun(Lake(root, PIPELINE), DAY),
        contract,
        table,
        versions,
        shards=SHARDS,
        row_group_rows=ROW_GROUP_ROWS,
    )
