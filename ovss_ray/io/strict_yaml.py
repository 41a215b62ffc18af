"""YAML reader that rejects repeated keys, aliases, tags and ambiguous numbers."""

import re
from collections import Counter
from collections.abc import Collection, Hashable
from typing import Any

import yaml

from ovss_ray.errors import OvssError

_TEXT = "tag:yaml.org,2002:str"
_OTHER_NUMBER = re.compile(r"[-+]?0[0-7_]*[0-7]|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+")
"""Numbers that YAML 1.1 reads as octal or sexagesimal."""


def load(data: bytes | str, source: str, text: Collection[str] = ()) -> Any:
    """Read YAML to plain data, such as dicts, lists, strings and numbers. Raises OvssError for invalid YAML.

    All keys become strings, as they are written. `text` lists keys of the top level. All values below the keys in
    `text` also become strings. For example, the value `no` becomes "no" instead of False. If the top level is a list
    and `text` is not empty, all values of the list become strings. Error messages begin with `source`.
    """
    try:
        loader = _Loader(data)
        try:
            node = loader.get_single_node()
            if text and isinstance(node, yaml.SequenceNode):
                _as_text(node)
            for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
                if key.value in text:
                    _as_text(value)
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError) as failure:
        hint = ". A value that begins with * needs quotes: '*.png'" if "scanning an alias" in str(failure) else ""
        raise OvssError(f"{source}: invalid YAML: {failure}{hint}") from failure


def _as_text(node: yaml.Node) -> None:
    """Mark every scalar in a node as a string."""
    if isinstance(node, yaml.ScalarNode):
        node.tag = _TEXT
    for inner in node.value if isinstance(node, yaml.CollectionNode) else ():
        for part in inner if isinstance(inner, tuple) else (inner,):
            _as_text(part)


class _Loader(yaml.SafeLoader):
    """SafeLoader that rejects repeated keys, aliases, tags, ambiguous numbers and invalid characters."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):  # with aliases, a small file could expand to a huge config
            raise yaml.YAMLError(
                f"aliases are not allowed (*{event.anchor}). Repeat the value, or use `extends:` in a config"
            )
        if tag := getattr(event, "tag", None):
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: tags are not allowed ({tag}); write plain values")
        return super().compose_node(parent, index)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        # No file name can have these characters.
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: invalid character in {value!r}")
        return value

    def construct_yaml_int(self, node: Any) -> int:
        value = super().construct_yaml_int(node)
        if _OTHER_NUMBER.fullmatch(node.value) and (":" in node.value or int(node.value) != value):
            where = f"line {node.start_mark.line + 1}: {node.value}"
            raise yaml.YAMLError(
                f"{where} means the number {value} in YAML. Write {value} for this number, or "
                f"'{node.value}' in quotes for a text"
            )
        return value

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = _TEXT
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        # Of a repeated key, only the last value would be kept.
        counts = Counter(key for key in keys if isinstance(key, Hashable))  # others are rejected below
        if repeated := [key for key, count in counts.items() if count > 1]:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: duplicate key {repeated[0]!r}")
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
