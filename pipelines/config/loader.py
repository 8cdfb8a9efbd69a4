"""YAML 1.2 read into a tree in which every value knows where it was written.

PyYAML follows YAML 1.1, which turns ``no`` into false, ``12:00:00`` into 43200, ``010`` into 8 and
leaves ``1e-3`` a string. The loader here resolves plain scalars by the core schema of YAML 1.2
(section 10.3.2 of its specification) and refuses duplicate keys.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

Scalar: TypeAlias = str | int | float | bool | None

_TAG = "tag:yaml.org,2002:"
_CORE = {
    "null": re.compile(r"(?:~|null|Null|NULL)?\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
    "merge": re.compile(r"<<\Z"),
}


class ConfigError(ValueError):
    """All that is wrong with a configuration, one problem a line."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value came from; ``where`` is a file and line, or an override in its own words."""

    kind: Literal["default", "file", "preset", "override"]
    where: str = ""
    preset: str = ""

    def __str__(self) -> str:
        if self.kind == "preset":
            return f"preset {self.preset}, {self.where}"
        return self.where or self.kind


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its source; mappings and sequences hold further nodes."""

    value: "Mapping[str, Node] | tuple[Node, ...] | Scalar"
    source: Source

    def plain(self) -> Any:
        """The value as dicts, lists and scalars, without sources."""
        match self.value:
            case Mapping():
                return {key: child.plain() for key, child in self.value.items()}
            case tuple():
                return [child.plain() for child in self.value]
        return self.value

    def child(self, key: str | int) -> "Node | None":
        """The node below ``key`` or index, if there is one."""
        if isinstance(self.value, Mapping):
            return self.value.get(str(key))
        if isinstance(self.value, tuple) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None

    def from_preset(self, preset: str) -> "Node":
        """The same tree, its sources marked as a preset's."""
        source = Source("preset", self.source.where, preset)
        match self.value:
            case Mapping():
                pairs = self.value.items()
                return Node({key: child.from_preset(preset) for key, child in pairs}, source)
            case tuple():
                return Node(tuple(child.from_preset(preset) for child in self.value), source)
        return Node(self.value, source)


def node_of(value: Any, source: Source) -> Node:
    """The tree of a plain value, all of it from one source."""
    match value:
        case Mapping():
            return Node({key: node_of(child, source) for key, child in value.items()}, source)
        case list() | tuple():
            return Node(tuple(node_of(child, source) for child in value), source)
    return Node(value, source)


def merge(base: Node, over: Node) -> Node:
    """Lay ``over`` upon ``base``: mappings join key by key, everything else is replaced whole."""
    if not isinstance(base.value, Mapping) or not isinstance(over.value, Mapping):
        return over
    merged = dict(base.value)
    for key, child in over.value.items():
        merged[key] = merge(merged[key], child) if key in merged else child
    return Node(merged, base.source)


def read_yaml(path: Path) -> Node:
    """The tree of a file; an empty file is an empty mapping.

    Raises:
        ConfigError: If the file is missing, no UTF-8, no YAML 1.2 or no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected a YAML configuration") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    node = parse_yaml(text, str(path))
    if node.value is None:
        return Node({}, node.source)
    if not isinstance(node.value, Mapping):
        raise ConfigError(f"{node.source.where}: expected a mapping, found {node.plain()!r}")
    return node


def parse_yaml(text: str, name: str, source: Source | None = None) -> Node:
    """The tree of one YAML document. ``name`` goes into messages and, with lines, into sources.

    Args:
        text: The document.
        name: What to call it, as a rule its path.
        source: One source for every node, where lines would say nothing.

    Raises:
        ConfigError: If the text is no YAML, has duplicate keys, or uses a tag beyond YAML's core.
    """
    try:
        loader = _CoreLoader(text)
        try:
            root = loader.get_single_node()
            return _Builder(loader, name, source).document(root)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        place = name if source else _place(name, error.problem_mark)
        problem = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"{place}: not valid YAML: {problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {error}") from None


def is_plain_string(text: str) -> bool:
    """Whether an unquoted ``text`` would be read back as that string."""
    return not any(pattern.match(text) for pattern in _CORE.values())


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's parser, with the core schema (and the merge key) in the place of its guesses."""


# PyYAML looks resolvers up by a scalar's first character; None stands for any.
_CoreLoader.yaml_implicit_resolvers = {
    None: [(_TAG + name, pattern) for name, pattern in _CORE.items()]
}


class _Builder:
    """Turns composed YAML nodes into ours."""

    def __init__(self, loader: yaml.SafeLoader, name: str, source: Source | None) -> None:
        self.loader, self.name, self.source = loader, name, source

    def source_at(self, node: yaml.Node) -> Source:
        return self.source or Source("file", _place(self.name, node.start_mark))

    def document(self, root: yaml.Node | None) -> Node:
        if root is None:
            return Node(None, self.source or Source("file", f"{self.name}:1"))
        for mapping in _mappings(root, ()):
            self._refuse_duplicates(mapping)
        return self.build(root)

    def build(self, node: yaml.Node) -> Node:
        source = self.source_at(node)
        match node:
            case yaml.MappingNode(tag=tag) if tag == f"{_TAG}map":
                self.loader.flatten_mapping(node)  # resolves merge keys, in place
                return Node(
                    {key.value: self._child(key, value) for key, value in node.value}, source
                )
            case yaml.SequenceNode(tag=tag) if tag == f"{_TAG}seq":
                return Node(tuple(self.build(item) for item in node.value), source)
            case yaml.ScalarNode():
                return Node(self._scalar(node), source)
        raise ConfigError(f"{source.where}: the tag {node.tag!r} is not part of YAML's core schema")

    def _child(self, key: yaml.Node, value: yaml.Node) -> Node:
        """A value, placed at the line of its key, where a reader looks for it."""
        return Node(self.build(value).value, self.source_at(key))

    def _scalar(self, node: yaml.ScalarNode) -> Scalar:
        try:
            return _scalar_value(node.tag.removeprefix(_TAG), node.value)
        except (KeyError, ValueError):
            place = self.source_at(node).where
            raise ConfigError(f"{place}: {node.value!r} cannot be read as {node.tag!r}") from None

    def _refuse_duplicates(self, node: yaml.MappingNode) -> None:
        first: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            place = self.source_at(key).where
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{place}: expected a plain key, found a {key.id}")
            if key.value in first:
                line = first[key.value].start_mark.line + 1
                raise ConfigError(f"{place}: the key {key.value!r} is already given in line {line}")
            first[key.value] = key


def _mappings(node: yaml.Node, above: tuple[yaml.Node, ...]) -> Iterator[yaml.MappingNode]:
    """Every mapping at or below ``node``, before merge keys are resolved."""
    if any(node is ancestor for ancestor in above):
        raise yaml.MarkedYAMLError(problem="an anchor holds itself", problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _mappings(value, (*above, node))
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _mappings(item, (*above, node))


def _scalar_value(tag: str, text: str) -> Scalar:
    match tag:
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return {"true": True, "false": False}[text.lower()]
        case "int":
            bases = {"0o": 8, "0x": 16}
            return int(text, bases.get(text[:2], 10))
        case "float":
            special = text.lower().endswith(("inf", "nan"))  # YAML's .inf is Python's inf
            return float(text.replace(".", "") if special else text)
        case "merge":  # as a value, not a key, it is nothing but text
            return text
    raise KeyError(tag)


def _place(name: str, mark: Any) -> str:
    return f"{name}:{mark.line + 1}" if mark is not None else name
