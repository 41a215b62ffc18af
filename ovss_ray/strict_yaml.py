"""YAML without its traps: no repeated keys, no aliases, no Python objects."""

from collections import Counter
from collections.abc import Hashable
from typing import Any

import yaml

from ovss_ray.errors import OvssError


def load(data: bytes | str, source: str) -> Any:
    """Read YAML to plain data; `source` is its name in errors. Raises OvssError for whatever cannot be used."""
    try:
        return yaml.load(data, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as failure:
        raise OvssError(f"{source}: not YAML that can be used here: {failure}") from failure


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses what a config does not need, and what is read as something that its author did not mean.

    Repeated keys (the first would be lost), aliases (a small file, a huge config), tags, and characters that are no
    text and that no file can be named with.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"aliases are not used here (*{event.anchor}); configs have `extends:`")
        if tag := getattr(event, "tag", None):
            raise yaml.YAMLError(
                f"line {event.start_mark.line + 1}: tags are not used here ({tag}); write plain values"
            )
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {value!r} has a character that is no text")
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        counts = Counter(key for key in keys if isinstance(key, Hashable))  # others are refused below
        if twice := [key for key, count in counts.items() if count > 1]:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {twice[0]!r} stands there twice")
        return super().construct_mapping(node, deep)
