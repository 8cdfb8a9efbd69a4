"""From a file, a preset and overrides to one frozen configuration that knows its origins."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from pipelines.config.fields import Config
from pipelines.config.loader import (
    ConfigError,
    Node,
    Source,
    merge,
    node_of,
    parse_yaml,
    read_yaml,
)
from pipelines.config.meanings import meanings
from pipelines.config.problems import problems_of, unknown

ConfigT = TypeVar("ConfigT", bound=Config)


@dataclass(frozen=True)
class Resolved(Generic[ConfigT]):
    """A configuration, the preset it took, and the source of each value by dotted path."""

    config: ConfigT
    preset: str | None
    provenance: Mapping[str, Source]

    def explain(self) -> str:
        """Of each value its path, what it is, where it comes from, and below it what it means."""
        rows = {path: f"{path} = {_value_at(self.config, path)}" for path in self.provenance}
        width = max(map(len, rows.values()), default=0)
        told = meanings(type(self.config))
        lines = []
        for path, source in self.provenance.items():
            lines.append(f"{rows[path]:<{width}}  # {source}")
            if path in told:
                lines.append(f"    {told[path]}")
        return "\n".join(lines)


def load(
    model: type[ConfigT],
    path: str | Path,
    preset: str | None = None,
    overrides: Iterable[str] = (),
) -> Resolved[ConfigT]:
    """Resolve a YAML file: defaults of the model < file < preset < overrides.

    Every preset of the file is checked, not the chosen one alone, so that a slip in ``paper``
    shows at the first ``smoke``.

    Args:
        model: The configuration class to fill.
        path: A YAML file: the values, and under ``presets`` partial trees laid over them.
        preset: The name of a preset, or None for the file's values alone.
        overrides: Texts ``key.path=value``, the value in YAML; the last one wins.

    Raises:
        ConfigError: With every problem found, each with file and line (or override) and path.
    """
    defaults, presets = _presets(read_yaml(Path(path)))
    if preset is not None and preset not in presets:
        raise ConfigError(f"{path}: preset {preset!r}: {unknown(preset, presets, 'preset')}")
    trees = {name: merge(defaults, partial) for name, partial in presets.items()}
    chosen = defaults if preset is None else trees.pop(preset)
    chosen, problems = _overlaid(chosen, overrides)
    config, found = _validate(model, chosen)
    for tree in trees.values():
        found.extend(_validate(model, tree)[1])
    if config is None or problems or found:
        raise ConfigError(*sorted({*problems, *found}, key=_by_line))
    return Resolved(config, preset, dict(_provenance(config, chosen, ())))


def amend(config: ConfigT, overrides: Iterable[str]) -> ConfigT:
    """Lay overrides over a configuration that has been resolved.

    Args:
        config: The configuration.
        overrides: As of :func:`load`.

    Raises:
        ConfigError: With every problem found.
    """
    tree, problems = _overlaid(_tree_of(config), overrides)
    amended, found = _validate(type(config), tree)
    if amended is None or problems:
        raise ConfigError(*problems, *found)
    return amended


def with_values(config: ConfigT, values: Mapping[str, Any]) -> ConfigT:
    """A configuration that has been resolved, with other values at some dotted paths.

    Raises:
        ConfigError: With every problem found.
    """
    tree = _tree_of(config)
    for dotted, value in values.items():
        node = node_of(value, Source("override", f"{dotted} = {value!r}"))
        tree = merge(tree, _below(dotted.split("."), node))
    changed, found = _validate(type(config), tree)
    if changed is None:
        raise ConfigError(*found)
    return changed


def _tree_of(config: Config) -> Node:
    return node_of(config.model_dump(mode="json"), Source("file", "the run's configuration"))


def preset_names(path: str | Path) -> tuple[str, ...]:
    """The presets that a file offers, in its order.

    Raises:
        ConfigError: If the file cannot be read.
    """
    return tuple(_presets(read_yaml(Path(path)))[1])


def _by_line(problem: str) -> list[tuple[int, str]]:
    """Sorts line 4 before line 12."""
    return [(int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", problem)]


def _presets(document: Node) -> tuple[Node, dict[str, Node]]:
    """Part a document into its own values and its presets; an empty preset changes nothing."""
    values = dict(document.value) if isinstance(document.value, Mapping) else {}
    section = values.pop("presets", None)
    defaults = Node(values, document.source)
    if section is None:
        return defaults, {}
    _expect_mapping(section, "presets")
    presets = {}
    for name, partial in section.value.items() if isinstance(section.value, Mapping) else ():
        tree = Node({}, partial.source) if partial.value is None else partial
        _expect_mapping(tree, f"presets.{name}")
        presets[name] = tree.from_preset(name)
    return defaults, presets


def _expect_mapping(node: Node, path: str) -> None:
    if not isinstance(node.value, Mapping):
        found = node.plain()
        raise ConfigError(f"{node.source.where}: {path}: expected a mapping, found {found!r}")


def _overlaid(tree: Node, overrides: Iterable[str]) -> tuple[Node, list[str]]:
    """A tree with overrides laid over it, and what is wrong with those that could not be."""
    problems: list[str] = []
    for text in overrides:
        try:
            tree = merge(tree, _override(text))
        except ConfigError as error:
            problems.extend(error.problems)
    return tree, problems


def _override(text: str) -> Node:
    """The tree that holds one override alone."""
    source = Source("override", f"override {text!r}")
    dotted, _, value = text.partition("=")
    path = [key.strip() for key in dotted.split(".")]
    if "=" not in text or not all(path):
        raise ConfigError(f"{source.where}: expected key.path=value")
    if not value.strip():
        raise ConfigError(f'{source.where}: expected a value after "="; write null or "" for none')
    return _below(path, parse_yaml(value, source.where, source))


def _below(path: Sequence[str], node: Node) -> Node:
    """The tree that holds a node alone, below some keys."""
    for key in reversed(path):
        node = Node({key: node}, node.source)
    return node


def _validate(model: type[ConfigT], tree: Node) -> tuple[ConfigT | None, list[str]]:
    # JSON mode is strict about types and yet takes lists for tuples and texts for paths and enums.
    try:
        return model.model_validate_json(json.dumps(tree.plain())), []
    except ValidationError as error:
        return None, list(problems_of(error, model, tree))


def _provenance(
    value: Any, node: Node | None, path: tuple[str, ...]
) -> Iterator[tuple[str, Source]]:
    children: dict[str, Any] = {}
    if isinstance(value, BaseModel):
        children = {name: getattr(value, name) for name in type(value).model_fields}
    elif isinstance(value, dict):
        children = value
    if path and not children:
        yield ".".join(path), node.source if node else Source("default")
    for key, child in children.items():
        below = node.child(key) if node else None
        yield from _provenance(child, below, (*path, str(key)))


def _value_at(config: BaseModel, dotted: str) -> str:
    value: Any = config.model_dump(mode="json")
    for key in dotted.split("."):
        value = value[key]
    return json.dumps(value, ensure_ascii=False)
