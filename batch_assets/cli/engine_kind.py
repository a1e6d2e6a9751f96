"""The choices of `--engine`, derived from the types of the YAML.

These are imported when they are asked for: it takes half a second, which `--help` does
not wait for: the option's own text names them.
"""

import click
from click.shell_completion import CompletionItem


class EngineKind(click.ParamType[str]):
    """A kind of engine."""

    name = "engine"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        return self._choice().convert(value, param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return self._choice().shell_complete(ctx, param, incomplete)

    def _choice(self) -> click.Choice[str]:
        from batch_assets.spec import ENGINES

        return click.Choice([*ENGINES])
