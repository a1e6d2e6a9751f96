"""`yaml.md`: every field of a pipeline's `defs.yaml`."""

from batch_assets.spec import DECLARED
from website.markdown import fields_of, paragraphs


def yaml() -> str:
    """Return the page of the YAML."""
    parts = [
        "# The YAML\n\nWhat may be written under `attributes` in a pipeline's `defs.yaml`. "
        "An unknown field is an error. What each is for, with examples, is in "
        "[pipeline.md](../pipeline.md)."
    ]
    for model in DECLARED:
        parts.append(
            f"## {model.__name__}\n\n{paragraphs(model.__doc__)}\n\n{fields_of(model)}"
        )
    return "\n\n".join(parts)
