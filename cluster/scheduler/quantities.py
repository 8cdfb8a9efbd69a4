"""Walltimes and memory sizes in the forms that Slurm reads, as values that cannot be misread.

Both types know how to be fields of a pydantic model, yet pydantic is imported only when a model
asks: ``cluster`` stays usable without it.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Self

_DAY = 86_400

_WALLTIME_FORMS = (
    "minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS, as in 90, 12:00:00 or 1-06:30"
)
_WITH_DAYS = re.compile(r"(\d+)-(\d+)(?::(\d+))?(?::(\d+))?", re.ASCII)
_WITHOUT_DAYS = re.compile(r"(\d+)(?::(\d+))?(?::(\d+))?", re.ASCII)

_MEBIBYTES = {
    "K": Decimal(1) / 1024,
    "M": Decimal(1),
    "G": Decimal(1024),
    "T": Decimal(1024**2),
}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT])(?:i?B)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, order=True, slots=True)
class Walltime:
    """A positive time limit, in whole seconds. ``str()`` gives Slurm's canonical form.

    Raises:
        ValueError: If ``seconds`` is not positive.
    """

    seconds: int

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError(f"a walltime must be longer than zero, found {self.seconds} s")

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read any form of Slurm's ``--time``; a bare integer means *minutes*, as in Slurm.

        The leading field is free (``48:00:00`` is two days, ``90:00`` an hour and a half); the
        fields after it must fit their unit.

        Raises:
            ValueError: If the value has another form, is zero, or names an impossible time.
        """
        if isinstance(value, Walltime):
            return cls(value.seconds)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(f"expected a walltime ({_WALLTIME_FORMS}), found {value!r}")
        seconds = _seconds(str(value).strip())
        if seconds == 0:
            raise ValueError(f"expected a walltime longer than zero, found {value!r}")
        return cls(seconds)

    @property
    def minutes(self) -> int:
        """Whole minutes, rounded up: what Slurm grants, since it counts limits in minutes."""
        return math.ceil(self.seconds / 60)

    def __str__(self) -> str:
        days, rest = divmod(self.seconds, _DAY)
        hours, rest = divmod(rest, 3600)
        clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
        return f"{days}-{clock}" if days else clock

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return _text_schema(cls.parse)


@dataclass(frozen=True, order=True, slots=True)
class MemorySize:
    """A positive amount of memory, in whole mebibytes. ``str()`` gives Slurm's ``--mem`` form.

    Raises:
        ValueError: If ``mebibytes`` is not positive.
    """

    mebibytes: int

    def __post_init__(self) -> None:
        if self.mebibytes <= 0:
            raise ValueError(f"a memory size must be above zero, found {self.mebibytes} MiB")

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read ``16G``, ``16GB``, ``16GiB``, ``512M`` or ``1.5T``; units are powers of 1024.

        Slurm reads ``G`` and ``GB`` alike as 1024 MiB, and so do we. A bare number is refused:
        Slurm would take ``16`` for 16 MiB, which is hardly ever meant.

        Raises:
            ValueError: If the unit is missing, or the size is zero or no whole number of MiB.
        """
        if isinstance(value, MemorySize):
            return cls(value.mebibytes)
        match = _MEMORY.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"expected a memory size with its unit, as in 16G, found {value!r}")
        size = Decimal(match[1]) * _MEBIBYTES[match[2].upper()]
        if size <= 0 or size != int(size):
            raise ValueError(f"expected a memory size of 1, 2, 3 ... MiB, found {value!r}")
        return cls(int(size))

    @property
    def bytes(self) -> int:
        """The size in bytes."""
        return self.mebibytes * 1024**2

    def __str__(self) -> str:
        return f"{self.mebibytes}M"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return _text_schema(cls.parse)


def duration(seconds: float) -> str:
    """A time in two figures that matter: ``4.2s``, ``12:05`` or ``31h02``."""
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes}:{round(seconds) % 60:02d}"
    return f"{minutes // 60}h{minutes % 60:02d}"


def _seconds(text: str) -> int:
    if match := _WITH_DAYS.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        _check_fields(text, hours=(hours, 24), minutes=(minutes, 60), seconds=(seconds, 60))
        return days * _DAY + hours * 3600 + minutes * 60 + seconds
    match = _WITHOUT_DAYS.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a walltime ({_WALLTIME_FORMS}), found {text!r}")
    first, second, third = match.groups()
    if third is None:
        _check_fields(text, seconds=(int(second or 0), 60))
        return int(first) * 60 + int(second or 0)
    _check_fields(text, minutes=(int(second), 60), seconds=(int(third), 60))
    return int(first) * 3600 + int(second) * 60 + int(third)


def _check_fields(text: str, **fields: tuple[int, int]) -> None:
    for name, (value, limit) in fields.items():
        if value >= limit:
            raise ValueError(
                f"impossible walltime {text!r}: {name} must be below {limit}, found {value}"
            )


def _text_schema(parse: Callable[[Any], Any]) -> Any:
    """A pydantic schema that reads with ``parse`` and writes with ``str``."""
    from pydantic_core import core_schema

    return core_schema.no_info_plain_validator_function(
        parse, serialization=core_schema.to_string_ser_schema()
    )
