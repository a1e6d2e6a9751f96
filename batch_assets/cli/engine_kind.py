"""The choices of `--engine`, derived from the types of the YAML.

These are imported when they are asked for: it takes half a second, which a lookup does
not wait for.
"""

import click


class EngineKind(click.ParamType[str]):
    """A kind of engine."""

    name = "engine"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        return self._choice().convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return self._choice().get_metavar(param, ctx)

    def _choice(self) -> click.Choice[str]:
        from batch_assets.spec import ENGINES

        return click.Choice([*ENGINES])
