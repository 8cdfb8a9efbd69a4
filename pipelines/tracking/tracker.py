"""A log and the sinks that show it, none of which can stop a run."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

from pipelines.tracking.log import MetricsLog
from pipelines.tracking.rows import Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.pictures import Pixels

_log = logging.getLogger("pipelines.tracking")


class Sink(Protocol):
    """A place that shows metrics; any exception it raises turns it off for the rest of the run."""

    def rewind(self, step: int) -> None:
        """Forget everything beyond ``step``; called before the first row of an attempt."""

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Show the values of a step."""

    def log_image(self, name: str, image: "Pixels", step: int) -> None:
        """Show an image, :math:`(H, W, 3)`."""

    def sync(self) -> None:
        """Hand on what is held back; called before a checkpoint."""

    def close(self) -> None:
        """Flush and let go."""


class Tracker:
    """Writes every row to the metrics log first, then offers it to each sink."""

    def __init__(self, metrics: MetricsLog, sinks: Iterable[Sink] = ()) -> None:
        self.metrics = metrics
        self._sinks = list(sinks)

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the values of a step; raises as :meth:`MetricsLog.log` does."""
        plain = self.metrics.log(step, values)
        self._offer(lambda sink: sink.log(step, plain))

    def record(self, step: int, values: Mapping[str, Any]) -> None:
        """Log, durably: a checkpoint that outlives a power cut must not be ahead of the rows."""
        self.log(step, values)
        self.sync()

    def log_image(self, name: str, image: "NDArray[Any]", step: int) -> None:
        """Log an image.

        Args:
            name: The series it belongs to.
            image: :math:`(H, W)` or :math:`(H, W, 3)`, either uint8 or floats in [0, 1].
            step: How many steps are done.

        Raises:
            ValueError: If the array has another shape.
        """
        from pipelines.pictures import pixels  # with numpy, which most commands do without

        plain = pixels(name, image)
        self.metrics.log_image(name, plain, step)
        self._offer(lambda sink: sink.log_image(name, plain, step))

    def rewind(self, step: int) -> None:
        """Continue from ``step``, before the first row of a resumed attempt."""
        self.metrics.rewind(step)
        self._offer(lambda sink: sink.rewind(step))

    def sync(self) -> None:
        """Make all rows durable, before a checkpoint."""
        self.metrics.sync()
        self._offer(lambda sink: sink.sync())

    def close(self) -> None:
        """Close the log and every sink."""
        self.metrics.close()
        self._offer(lambda sink: sink.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _offer(self, call: Callable[[Sink], None]) -> None:
        for sink in tuple(self._sinks):
            try:
                call(sink)
            except Exception as error:
                self._sinks.remove(sink)
                name = type(sink).__name__
                _log.warning("%s is off from here on: %r (metrics.jsonl goes on)", name, error)
