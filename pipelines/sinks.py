"""Weights & Biases and TensorBoard as sinks of a tracker, each imported at its first row."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cluster.records.files import write_atomic
from pipelines.pictures import Pixels, decode_png
from pipelines.tracking import (
    LoggedImage,
    MetricsError,
    Row,
    Sink,
    Value,
    read_images,
    read_metrics,
)

Mode = Literal["offline", "online"]

_NOTE = "wandb.json"
#: How long an online run may hold up a member, seconds: when it begins, and when it ends.
_INIT_TIMEOUT, _FINISH_TIMEOUT = 30.0, 10.0


def run_id(digest: str, member: str) -> str:
    """The identifier that a member, such as ``train/0003``, keeps through all its attempts."""
    return f"{digest[:16]}-{member.replace('/', '-')}"


def replay(path: str | Path, sink: Sink, only: Collection[int] | None = None) -> int:
    """Show the rows and images that count of a ``metrics.jsonl`` in a fresh sink, step after step.

    A sink that was killed may have lost rows or hold some twice; the file has not.

    Args:
        path: The file.
        sink: What shows them; it is closed.
        only: Steps to show; default: all.

    Returns:
        The number of rows shown.

    Raises:
        MetricsError: The log, or an image, is damaged.
        FileNotFoundError: One of them is gone.
    """
    rows = read_metrics(path, without={"attempt", "time"})
    logged: list[Row | LoggedImage] = [*rows, *read_images(path)]
    shown = [entry for entry in logged if only is None or _step(entry) in only]
    for entry in sorted(shown, key=_step):
        if isinstance(entry, LoggedImage):
            sink.log_image(entry.name, _read_image(entry.file), entry.step)
        else:
            values = {name: value for name, value in entry.items() if name != "step"}
            sink.log(_step(entry), values)
    sink.close()
    return sum(isinstance(entry, dict) for entry in shown)


def _step(entry: Row | LoggedImage) -> int:
    return entry.step if isinstance(entry, LoggedImage) else int(entry["step"] or 0)


def _read_image(file: Path) -> Pixels:
    try:
        return decode_png(file.read_bytes())
    except ValueError as error:
        raise MetricsError(f"{file}: {error}") from error


@dataclass(frozen=True)
class WandbRun:
    """What a member is called at Weights & Biases.

    Attributes:
        identifier: See :func:`run_id`.
        project: The project on the server.
        mode: Whether the member itself sends.
        config: What to show beside the metrics.
    """

    identifier: str
    project: str = "yaoki"
    mode: Mode = "offline"
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Project and identifier, as W&B writes them."""
        return f"{self.project}/{self.identifier}"

    def save(self, directory: Path) -> None:
        """Note it in the directory of the member, where ``yaoki sync`` looks."""
        directory.mkdir(parents=True, exist_ok=True)
        content = json.dumps(asdict(self), indent=1, sort_keys=True, default=str)
        write_atomic(directory / _NOTE, content.encode())

    @staticmethod
    def load(directory: Path) -> "WandbRun | None":
        """What was noted; None where the member never had such a sink.

        Raises:
            MetricsError: The note is damaged.
        """
        note = directory / _NOTE
        try:
            return WandbRun(**json.loads(note.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise MetricsError(
                f"{note}: expected what the member is called at W&B, found: {error}. Move it away "
                "and give 'yaoki sync' the --project; the metrics are not touched."
            ) from error


class WandbSink:
    """Rows and images as a Weights & Biases run, offline unless told otherwise.

    Each attempt of a member leaves a directory of its own under ``directory/wandb``, all with the
    same run identifier.

    Args:
        directory: Where W&B keeps its files: the directory of the member.
        identifier: See :func:`run_id`.
        project: The project on the server.
        config: What to show beside the metrics.
        mode: "online" needs a login and a network. What does not arrive is left to ``yaoki sync``.
        resume: Go on after the last step that the server has: W&B then numbers anew, or drops,
            steps that lie before. Otherwise it takes them as they are.
    """

    def __init__(
        self,
        directory: str | Path,
        identifier: str,
        *,
        project: str = "yaoki",
        config: Mapping[str, Any] | None = None,
        mode: Mode = "offline",
        resume: bool = True,
    ) -> None:
        self.directory = Path(directory)
        self.resume = resume
        self.run = WandbRun(identifier, project, mode, dict(config or {}))
        self._run: Any = None

    def rewind(self, step: int) -> None:
        """Nothing to do: what a server lacks or holds is asked when a log is replayed to it."""

    def log(self, step: int, values: Mapping[str, Value]) -> None:
        """Log the values of a step."""
        with _told_once():
            self._open().log(dict(values), step=step)

    def log_image(self, name: str, image: Pixels, step: int) -> None:
        """Log an image, :math:`(H, W, 3)`."""
        run = self._open()
        import wandb

        with _told_once():
            run.log({name: wandb.Image(image)}, step=step)

    def sync(self) -> None:
        """Nothing to do: W&B has no way to wait for rows."""

    def close(self) -> None:
        """Finish the run."""
        run, self._run = self._run, None
        if run is not None:
            with _told_once():
                run.finish()

    def _open(self) -> Any:
        if self._run is None:
            # First, so that a node without W&B leaves a member that can be sent all the same.
            self.run.save(self.directory)
            import wandb

            # Standard output stays ours, and Git and machine metadata stay out of volatile files.
            quiet = wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                init_timeout=_INIT_TIMEOUT,
                finish_timeout=_FINISH_TIMEOUT if self.run.mode == "online" else 0.0,
                finish_timeout_raises=True,
            )
            self._run = wandb.init(
                project=self.run.project,
                id=self.run.identifier,
                dir=str(self.directory),
                config=dict(self.run.config),
                mode=self.run.mode,
                resume="allow" if self.resume else None,
                settings=quiet,
            )
        return self._run


@contextmanager
def _told_once() -> Iterator[None]:
    """Where W&B's own process has gone, keep its hook at exit from telling so in a traceback."""
    try:
        yield
    except ConnectionError:
        import wandb

        with suppress(ConnectionError):
            wandb.teardown()
        raise


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

    def log_image(self, name: str, image: Pixels, step: int) -> None:
        """Write an image, :math:`(H, W, 3)`."""
        self._open().add_image(name, image, step, dataformats="HWC")

    def sync(self) -> None:
        """Write what waits in memory: after a kill the next attempt would not log it again."""
        if self._writer is not None:
            self._writer.flush()

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
