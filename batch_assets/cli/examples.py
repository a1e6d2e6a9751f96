"""Examples of each command, as `--help` shows them; a test parses every one."""

import click

EXAMPLES = {
    "alerts list": ["batch-assets alerts list churn --limit 10"],
    "alerts look": ["batch-assets alerts look churn"],
    "alerts test": ["batch-assets alerts test churn"],
    "books": ["batch-assets books churn --day 2026-01-05"],
    "dead-letters list": [
        "batch-assets dead-letters list churn --day 2026-01-05 --limit 0"
    ],
    "dead-letters replay": ["batch-assets dead-letters replay churn --day 2026-01-05"],
    "deadline": ["batch-assets deadline churn"],
    "demo": ["batch-assets demo", "batch-assets demo baskets"],
    "denylist add": [
        "batch-assets denylist add baskets 1029743 995242 --why 'recalled'"
    ],
    "denylist remove": [
        "batch-assets denylist remove baskets 1029743 --why 'on the shelf again'"
    ],
    "denylist replace": [
        "batch-assets denylist replace baskets denied.txt --why 'list of May'"
    ],
    "denylist show": ["batch-assets denylist show baskets"],
    "doctor": ["batch-assets doctor", "batch-assets doctor --json"],
    "explain": [
        "batch-assets explain churn 42",
        "batch-assets explain churn 42 --day 2026-01-05 --out why.html",
    ],
    "init": ["batch-assets init shop", "batch-assets init . --name shop"],
    "lookup": [
        "batch-assets lookup churn 42",
        "batch-assets lookup baskets 2375 --segment north --json",
    ],
    "outcomes run": [
        "batch-assets outcomes run churn --day 2026-01-05",
        "batch-assets outcomes run churn --from 2026-01-01 --to 2026-01-31",
    ],
    "outcomes show": ["batch-assets outcomes show churn --by plan"],
    "plan": [
        "batch-assets plan --rows 500M --devices 8 --batch-rows 256 --batch-ms 50",
        "batch-assets plan churn --rows 500M --deadline 6h --device h100 --price 2.5 "
        "--spot 0.7 --preemptions 0.05/h",
    ],
    "publish": [
        "batch-assets publish churn",
        "batch-assets publish churn 2026-01-05 --override coverage_is_within_limit "
        "--why 'a holiday' --until 2026-01-06",
    ],
    "release add": ["batch-assets release add churn data/releases/churn"],
    "release approve": [
        "batch-assets release approve churn 39cd5c48728b --why 'beats the last by 2 points'"
    ],
    "release compare": [
        "batch-assets release compare 39cd5c48728b 81f0a2c4e6d1 "
        "--days 2026-01-01..2026-01-07"
    ],
    "release import": [
        "batch-assets release import mlflow:/churn/3 --key customer_id:int64",
        "batch-assets release import ./minilm --key id:int64 --text message "
        "--frame messages.parquet --name meanings",
    ],
    "release list": ["batch-assets release list churn"],
    "release new": ["batch-assets release new --from train.py:make"],
    "release revoke": [
        "batch-assets release revoke churn 39cd5c48728b --why 'wrong for new customers'"
    ],
    "release sign": ["batch-assets release sign data/releases/churn"],
    "release verify": ["batch-assets release verify churn"],
    "report": ["batch-assets report churn --day 2026-01-05 --out night.html"],
    "run": [
        "batch-assets run churn --day 2026-01-05",
        "batch-assets run churn --from 2026-01-01 --to 2026-01-31 --parallel 4",
    ],
    "serve": [
        "batch-assets serve churn baskets --port 8000",
        "batch-assets serve churn --host 0.0.0.0 --token-env SERVICE_TOKEN",
    ],
    "sinks drop": ["batch-assets sinks drop churn 2026-01-05-26ddc00c2163"],
    "sinks follow": ["batch-assets sinks follow churn"],
    "sinks list": ["batch-assets sinks list churn"],
    "sinks verify": ["batch-assets sinks verify churn"],
    "snapshot history": ["batch-assets snapshot history churn"],
    "snapshot list": ["batch-assets snapshot list churn"],
    "snapshot pin": [
        "batch-assets snapshot pin churn 2026-01-05-26ddc00c2163 --why 'an audit'"
    ],
    "snapshot rollback": [
        "batch-assets snapshot rollback churn --why 'too many high scores'"
    ],
    "snapshot sql": [
        "batch-assets snapshot sql churn 'SELECT avg(risk) FROM snapshot'",
        "batch-assets snapshot sql churn",
    ],
    "snapshot unblock": ["batch-assets snapshot unblock churn --why 'mended'"],
    "snapshot unpin": ["batch-assets snapshot unpin churn --why 'the audit is over'"],
    "snapshot verify": ["batch-assets snapshot verify churn"],
    "sweep": ["batch-assets sweep churn --device cpu"],
}


def with_examples(command: click.Command, path: str) -> click.Command:
    """Let the help of a command, and of those below it, end with its examples."""
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            with_examples(below, f"{path} {name}")
    else:
        lines = "\n".join(f"  {example}" for example in EXAMPLES[path])
        # click keeps the lines of a paragraph that begins with this as they are.
        command.epilog = f"\b\nExamples:\n{lines}"
    return command
