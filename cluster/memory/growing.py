"""Growing back: when a microbatch that was cut is tried at twice its size again."""

from collections.abc import Mapping
from dataclasses import dataclass, field

#: The longest wait, as a multiple of the first.
_LONGEST = 64


@dataclass
class Growth:
    """The patience of an accumulator with a size that is smaller than asked for.

    After ``after`` batches in a row without an out-of-memory the next size is due. Where that
    size, now or later, is out of memory after all, the one before it is taken again, and the wait
    for another try is twice as long, up to 64 times the first.

    Args:
        after: Batches to wait, or None never to grow.

    Raises:
        ValueError: The wait is not a positive number.
    """

    after: int | None = None
    wait: int = field(default=0, init=False)
    calm: int = field(default=0, init=False)
    fallback: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.after is not None and self.after < 1:
            raise ValueError(f"grow_after: expected a number >= 1 or None, found {self.after}")
        self.wait = self.after or 0

    def due(self) -> bool:
        """Count a batch without an out-of-memory, and say whether the next size is due."""
        if self.after is None:
            return False
        self.calm += 1
        return self.calm >= self.wait

    def begin(self, size: int) -> None:
        """Note that ``size`` is left for a larger one."""
        self.calm, self.fallback = 0, size

    def retreat(self, size: int) -> int | None:
        """Note that ``size`` is out of memory; the size it was grown from, if there is one."""
        self.calm, fallback = 0, self.fallback
        self.fallback = 0
        if not 0 < fallback < size:
            return None
        self.wait = min(2 * self.wait, _LONGEST * (self.after or 0))
        return fallback

    def state_dict(self) -> dict[str, int]:
        """What the next try depends on; nothing where growing was not asked for."""
        if self.after is None:
            return {}
        return {"wait": self.wait, "calm": self.calm, "fallback": self.fallback}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take over what an earlier attempt has learned, if it was asked to grow as well."""
        if self.after is not None and "wait" in state:
            self.wait, self.calm = state["wait"], state["calm"]
            self.fallback = state["fallback"]
