"""A job whose sweep may be searched in the place of a grid."""

from collections.abc import Collection
from typing import Self

from pipelines.config import with_values
from pipelines.config.sweep import Point, SweptConfig
from pipelines.search.settings import SearchConfig
from pipelines.search.space import Range, check_space, draw, read_space


class SearchedConfig(SweptConfig):
    """A job with members at every point of a sweep, or with trials of a search of it.

    Attributes:
        sweep: Lists of values to try in the place of those below; for a search, ranges too.
        search: Whether every combination is tried, or a search goes through them.
    """

    search: SearchConfig = SearchConfig()

    @property
    def points(self) -> list[Point]:
        """The points of the sweep; none of an adaptive search, where a journal has them."""
        if self.search.method == "grid":
            return super().points
        drawn = 0 if self.search.adaptive else self.search.trials
        space = read_space(self.sweep)
        return [draw(space, self.seed, number) for number in range(drawn)]

    @property
    def members(self) -> int:
        """Networks in all."""
        return self.search.trials if self.search.adaptive else super().members

    def at_point(self, point: Point) -> Self:
        """The configuration with the values of a point.

        Raises:
            ConfigError: There is no such configuration.
        """
        return with_values(self._unswept(), point)

    def _check_sweep(self, sections: Collection[str], searched: Collection[str] = ()) -> None:
        """Make sure that the sweep is one, within some sections; a search within others."""
        if self.search.method != "grid":
            self._check_search(searched)
            return
        for path, axis in read_space(self.sweep).items():
            if isinstance(axis, Range):
                raise ValueError(
                    f"{path} is a range, of which there is no grid; list values, or set "
                    "search.method to random or adaptive"
                )
        super()._check_sweep(sections)

    def _check_search(self, searched: Collection[str]) -> None:
        method, space = self.search.method, read_space(self.sweep)
        if not space:
            raise ValueError(f"search.method={method} expects values to search below sweep")
        if self.search.adaptive and self.seeds != 1:
            raise ValueError(
                "an adaptive search trains one network a trial: expected seeds=1, found "
                f"{self.seeds}"
            )
        check_space(self._unswept(), space, searched)
        for point in self.points:
            self.at_point(point)

    def _unswept(self) -> Self:
        return super()._unswept().model_copy(update={"search": SearchConfig()})
