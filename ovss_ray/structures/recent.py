"""Cache in memory with bounded size, which evicts the least recently used values."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Cache of the most recently used values, with an upper `limit` on the sum of the sizes.

    `size` returns the size of a value, by default 1. The newest value is kept even if it is larger than `limit`.
    """

    def __init__(self, limit: int, size: Callable[[Value], int] = lambda _: 1) -> None:
        self._limit, self._size = limit, size
        self._values: OrderedDict[str, Value] = OrderedDict()
        self.held = 0
        """Sum of the sizes of all cached values."""

    def kept(self, key: str) -> Value | None:
        """Return the cached value of a key, or None. This does not mark the value as recently used."""
        return self._values.get(key)

    def get(self, key: str, make: Callable[[], Value]) -> Value:
        """Return the value of a key. If the value is not cached, `make` computes it."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = make()
        self._values[key] = value
        self.held += self._size(value)
        while self.held > self._limit and len(self._values) > 1:
            _, oldest = self._values.popitem(last=False)
            self.held -= self._size(oldest)
        return value
