"""Fluxes of sites, by day, with what explains them: the one form that all sources share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Days = NDArray[np.datetime64]


class FluxError(ValueError):
    """Flux data that cannot be made, read or used; the message says why and what to do."""


@dataclass(frozen=True)
class FluxRecords:
    """Daily records of S sites over T consecutive days; what is unknown is NaN.

    Attributes:
        sites: A name each.
        days: Calendar days, leap days included, (T), ``datetime64[D]``.
        dynamic: What drives the fluxes, (S, T, D).
        static: What a site is, (S, P).
        fluxes: (S, T, F).
        dynamic_names: Of the last axis of ``dynamic``.
        static_names: Of the last axis of ``static``.
        flux_names: Of the last axis of ``fluxes``.
    """

    sites: tuple[str, ...]
    days: Days
    dynamic: Array
    static: Array
    fluxes: Array
    dynamic_names: tuple[str, ...]
    static_names: tuple[str, ...]
    flux_names: tuple[str, ...]

    def __post_init__(self) -> None:
        sites, days = len(self.sites), len(self.days)
        expected = {
            "dynamic": (sites, days, len(self.dynamic_names)),
            "static": (sites, len(self.static_names)),
            "fluxes": (sites, days, len(self.flux_names)),
        }
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise FluxError(
                    f"{name}: expected shape {shape} by sites, days, names; got {found}"
                )
        if days == 0 or (np.diff(self.days) != np.timedelta64(1, "D")).any():
            raise FluxError("days: expected consecutive calendar days; fill gaps with NaN")

    def known(self) -> NDArray[np.bool_]:
        """Where all drivers and fluxes are known, (S, T): to be joined with a mask of a split."""
        together = np.concatenate([self.dynamic, self.fluxes], axis=-1)
        return np.asarray(np.isfinite(together).all(axis=-1))

    def select(self, dynamic: Sequence[str], fluxes: Sequence[str]) -> "FluxRecords":
        """Keep the named variables, in this order.

        Raises:
            FluxError: There is no such variable.
        """
        kept = [_positions(dynamic, self.dynamic_names), _positions(fluxes, self.flux_names)]
        return replace(
            self,
            dynamic=self.dynamic[..., kept[0]],
            fluxes=self.fluxes[..., kept[1]],
            dynamic_names=tuple(dynamic),
            flux_names=tuple(fluxes),
        )


def _positions(wanted: Sequence[str], names: tuple[str, ...]) -> list[int]:
    absent = [name for name in wanted if name not in names]
    if absent:
        raise FluxError(f"no variable {', '.join(absent)}; there are {', '.join(names)}")
    return [names.index(name) for name in wanted]


def day_of_year(days: Days) -> Array:
    """Day of the year, 1 to 366."""
    return (days - days.astype("datetime64[Y]").astype(days.dtype)).astype(np.float64) + 1


def decimal_year(days: Days) -> Array:
    """The year and the part of it that has passed at noon; leap years are a day longer."""
    start = days.astype("datetime64[Y]")
    length = ((start + 1).astype("datetime64[D]") - start.astype("datetime64[D]")).astype(float)
    return np.asarray(start.astype(int) + 1970 + (day_of_year(days) - 0.5) / length)


def season(days: Days) -> Array:
    """Sine and cosine of the time of the year, (T, 2): the same phase in leap years and others."""
    angle = 2 * np.pi * decimal_year(days)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1)
