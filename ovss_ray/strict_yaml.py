"""YAML without its traps: no repeated keys, no aliases, no Python objects."""

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
    """SafeLoader that refuses repeated keys (the first would be lost) and aliases (a small file, a huge config)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"aliases are not used here (*{event.anchor}); configs have `extends:`")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for number, key in enumerate(keys) if key in keys[:number]]:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {twice[0]!r} stands there twice")
        return super().construct_mapping(node, deep)
