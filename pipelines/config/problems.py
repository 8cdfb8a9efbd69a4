"""What is wrong with a configuration, told at the line where it was written."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pipelines.config.loader import Node

_OUR_WORDS = {
    "an object": "a mapping",
    "a valid dictionary": "a mapping",
    "a valid array": "a list",
    "a valid integer": "an integer",
    "a valid number": "a number",
    "a valid string": "a string",
    "a valid boolean": "true or false",
}
_KINDS = {str: "a string", bool: "a boolean", int: "an integer", float: "a float"}


def problems_of(error: ValidationError, model: type[BaseModel], tree: Node) -> Iterator[str]:
    """One line a problem: where, dotted path, what was expected, what was found."""
    for detail in error.errors(include_url=False):
        missing = detail["type"] == "missing"
        path, node = _written(tree, detail["loc"][:-1] if missing else detail["loc"])
        if missing:
            path = (*path, detail["loc"][-1])
        dotted = ".".join(map(str, path)) or "configuration"
        yield f"{node.source.where}: {dotted}: {_message(detail, model, path)}"


def unknown(key: str, known: Mapping[str, Any] | tuple[str, ...], what: str = "key") -> str:
    """Say that ``key`` is unknown, and which one of ``known`` was probably meant."""
    if near := difflib.get_close_matches(key, known, n=1):
        return f"unknown {what}; did you mean {near[0]!r}?"
    return f"unknown {what}; expected one of: {', '.join(known) or 'none'}"


def _written(tree: Node, loc: tuple[str | int, ...]) -> tuple[tuple[str | int, ...], Node]:
    """The part of pydantic's location that stands in the tree (it also names union branches)."""
    path: tuple[str | int, ...] = ()
    for key in loc:
        child = tree.child(key)
        if child is not None:
            path, tree = (*path, key), child
    return path, tree


def _message(detail: Any, model: type[BaseModel], path: tuple[str | int, ...]) -> str:
    said = str(detail["msg"])
    if detail["type"] == "missing":
        return "required, but missing"
    if detail["type"] == "extra_forbidden":
        return _unknown_field(model, path)
    if detail["type"] == "value_error":  # a validator of ours, which names what it found
        return said.removeprefix("Value error, ")
    expected = said.removeprefix("Input should be ")
    if expected == said:
        return f"{said}, found {_found(detail['input'])}"
    if expected.startswith(("greater", "less", "a multiple")):
        expected = f"a number {expected}"
    return f"expected {_OUR_WORDS.get(expected, expected)}, found {_found(detail['input'])}"


def _found(value: Any) -> str:
    if value is None:
        return "null (no value)"
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{text} ({_KINDS.get(type(value), type(value).__name__)})"


def _unknown_field(model: type[BaseModel], path: tuple[str | int, ...]) -> str:
    key, siblings = str(path[-1]), _fields_at(model, path[:-1])
    if not difflib.get_close_matches(key, siblings, n=1):
        elsewhere = [dotted for dotted in _all_paths(model) if dotted.split(".")[-1] == key]
        if elsewhere:
            return f"unknown key here; did you mean {elsewhere[0]!r}?"
    return unknown(key, siblings)


def _fields_at(model: type[BaseModel], path: tuple[str | int, ...]) -> dict[str, Any]:
    """Every field that a mapping at ``path`` may hold, with its annotation."""
    fields = _fields((model,))
    for key in path:
        if key in fields:  # an index or a free key stays with the models of its collection
            fields = _fields(_models(fields[str(key)]))
    return fields


def _fields(models: tuple[type[BaseModel], ...]) -> dict[str, Any]:
    return {name: info.annotation for each in models for name, info in each.model_fields.items()}


def _models(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The models that an annotation mentions, as in ``Sub | None`` or ``tuple[Sub, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(each for argument in get_args(annotation) for each in _models(argument))


def _all_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, annotation in _fields((model,)).items():
        yield prefix + name
        for below in _models(annotation):
            if below is not model:
                yield from _all_paths(below, f"{prefix}{name}.")
