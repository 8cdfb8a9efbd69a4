"""Weights & Biases and TensorBoard as sinks of a tracker, each imported at its first row."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.tracking import Sink, Value, read_metrics


def run_id(digest: str, member: int) -> str:
    """The identifier that a member keeps through all its attempts."""
    return f"{digest[:16]}-{member:04d}"


def replay(path: str | Path, sink: Sink) -> int:
    """Show the rows that count of a ``metrics.jsonl`` in a fresh sink; returns how many.

    A sink that was killed may have lost rows or hold some twice; the file has not.
    """
    rows = read_metrics(path, without={"attempt", "time"})
    for row in rows:
        step = row.pop("step")
        sink.log(int(step or 0), row)
    sink.close()
    return len(rows)


class WandbSink:
    """Rows and images as a Weights & Biases run, offline unless told otherwise.

    Each attempt of a member leaves a directory of its own under ``directory/wandb``, all with the
    same run identifier.

    Args:
        directory: Where W&B keeps its files.
        identifier: See :func:`run_id`.
        project: The project on the server.
        config: What to show beside the metrics.
        mode: "online" needs a login and a network.
    """

    def __init__(
        self,
        directory: str | Path,
        identifier: str,
        *,
        project: str = "yaoki",
        config: Mapping[str, Any] | None = None,
        mode: Literal["offline", "online"] = "offline",
    ) -> None:
        self.directory, self.identifier = Path(directory), identifier
        self.project, self.config, self.mode = project, dict(config or {}), mode
        self._run: Any = None

    def rewind(self, step: int) -> None:
        """Nothing to do: W&B keeps an attempt's rows apart, and :func:`replay` mends overlaps."""

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Log the values of a step."""
        self._open().log(dict(values), step=step)

    def log_image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """Log an image, :math:`(H, W, 3)`."""
        import wandb

        self._open().log({name: wandb.Image(image)}, step=step)

    def close(self) -> None:
        """Finish the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _open(self) -> Any:
        if self._run is None:
            import wandb

            self.directory.mkdir(parents=True, exist_ok=True)
            # Standard output stays ours, and Git and machine metadata stay out of volatile files.
            quiet = wandb.Settings(silent=True, console="off", disable_git=True)
            self._run = wandb.init(
                project=self.project,
                id=self.identifier,
                dir=str(self.directory),
                config=self.config,
                mode=self.mode,
                resume="allow",
                settings=quiet,
            )
        return self._run


class TensorBoardSink:
    """Numbers and images as TensorBoard events; strings are left to the metrics log.

    After a rewind the first event tells TensorBoard to drop what lies beyond it.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._purge_step: int | None = None
        self._writer: Any = None

    def rewind(self, step: int) -> None:
        """Let the next event purge every step beyond ``step``."""
        self.close()
        self._purge_step = step + 1

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Write each number of a step as a scalar of its own."""
        writer = self._open()
        for name, value in values.items():
            if isinstance(value, int | float):
                writer.add_scalar(name, value, step)

    def log_image(self, name: str, image: NDArray[np.uint8], step: int) -> None:
        """Write an image, :math:`(H, W, 3)`."""
        self._open().add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self) -> Any:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(
                str(self.directory), purge_step=self._purge_step, flush_secs=10
            )
        return self._writer
