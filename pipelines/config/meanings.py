"""What each value of a configuration means, read from where it is written once: the docstrings."""

import inspect
import re

from pydantic import BaseModel


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """The text of each field, by dotted path, from the ``Attributes:`` of the model's classes.

    A field that no docstring tells of is left out.
    """
    told = _attributes(model)
    found: dict[str, str] = {}
    for name, field in model.model_fields.items():
        if name in told:
            found[name] = told[name]
        if inspect.isclass(field.annotation) and issubclass(field.annotation, BaseModel):
            below = meanings(field.annotation)
            found |= {f"{name}.{path}": text for path, text in below.items()}
    return found


def _attributes(model: type[BaseModel]) -> dict[str, str]:
    """Name and text of what the docstrings of a class and its bases list; the class's come last."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        _, _, section = inspect.cleandoc(vars(base).get("__doc__") or "").partition(
            "\nAttributes:\n"
        )
        # An entry starts at the section's own indent and goes on wherever the indent is deeper.
        for entry in re.split(r"\n(?= {4}\S)", "\n" + section):
            name, colon, text = entry.strip().partition(":")
            if colon and name.isidentifier():
                found[name] = " ".join(text.split())
    return found
