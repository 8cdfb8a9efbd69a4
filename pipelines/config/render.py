"""A configuration as text: YAML that reads back to an equal one, and a digest that names it."""

import hashlib
import json
from typing import Any

import yaml
from pydantic import BaseModel

from pipelines.config.loader import is_plain_string


def dump_yaml(config: BaseModel) -> str:
    """The configuration as YAML; loading it gives an equal configuration."""
    return yaml.dump(
        config.model_dump(mode="json"),
        Dumper=_CoreDumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,  # short lists in one line
        width=100,
    )


def digest(config: BaseModel) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal: equal configurations have equal digests.

    Keys are sorted and floats are written with the shortest text that reads back exactly, so that
    neither the order of a file nor a float's last bit is lost or invented.
    """
    canonical = json.dumps(
        _canonical(config.model_dump(mode="json")), sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


class _CoreDumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 *or* 1.2 would take for something else than a string."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only double quotes escape line ends such as NEL, which other styles fold into a space.
    style = None if is_plain_string(text) and text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_CoreDumper.add_representer(str, _represent_text)


def _canonical(value: Any) -> Any:
    """Make -0.0 into 0.0, its equal."""
    if isinstance(value, dict):
        return {key: _canonical(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_canonical(child) for child in value]
    return value + 0.0 if isinstance(value, float) else value
