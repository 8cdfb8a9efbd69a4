"""The guard of the training loop: what is not finite reaches neither weights nor optimizer."""

import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cluster.records.files import write_atomic

logger = logging.getLogger(__name__)

Note = Callable[[int, Mapping[str, Any]], None]
"""Takes the number of steps done and an event."""


class NonFiniteError(Exception):
    """Too many steps had an input, loss or gradient that was not finite."""


@dataclass(frozen=True)
class Fault:
    """What was not finite in a step.

    Attributes:
        part: Where it was seen first.
        names: The tensors of the batch, or the parameters, that hold it.
        origin: What autograd's anomaly detection says of the first NaN, where it was asked.
    """

    part: Literal["input", "loss", "gradient"]
    names: tuple[str, ...] = ()
    origin: str = ""

    def __str__(self) -> str:
        return " ".join([self.part, *self.names])


@dataclass(frozen=True)
class Guard:
    """What becomes of steps that are skipped.

    Args:
        allowed: Fraction of the steps that may be skipped.
        minimum: Of fewer steps than these, as many may be skipped as of these.
        directory: Where their batches are kept, ``<step>.pt``, or None for nowhere.
        keep: How many are kept at most: the first ones.
        note: Told of each; the row counts as one of the step that comes out of it.
        replay: How to take a kept batch again, for people.
        trace: Go through a bad step once more, to find the operation that made the first NaN.
    """

    allowed: float = 0.01
    minimum: int = 100
    directory: Path | None = None
    keep: int = 5
    note: Note | None = None
    replay: str = ""
    trace: bool = False

    def skip(
        self, step: int, skipped: int, fault: Fault, scene: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Keep and tell of a step that is skipped.

        Args:
            step: Steps done before it.
            skipped: Steps skipped so far, this one included.
            fault: What was wrong with it.
            scene: What is needed to take it again; asked only if it is kept.

        Raises:
            NonFiniteError: It is one too many.
        """
        kept = None
        if self.directory is not None and skipped <= self.keep:
            kept = self.directory / f"{step:08d}.pt"
            _save(kept, {"step": step, "fault": vars(fault)} | dict(scene()))
        logger.warning("step %d skipped, not finite: %s", step, fault)
        if self.note is not None:
            told = {"event": "skipped", "not_finite": str(fault), "origin": fault.origin}
            self.note(step + 1, told | {"batch": None if kept is None else kept.name})
        # As exact as the fraction was written: 0.001 of 1000 is 1, whatever binary makes of it.
        if skipped > math.floor(self.allowed * max(step + 1, self.minimum) + 1e-9):
            raise NonFiniteError(self._refusal(step, skipped, fault))

    def _refusal(self, step: int, skipped: int, fault: Fault) -> str:
        kept = "" if self.directory is None else f"Batches are kept in {self.directory}"
        again = f": {self.replay} takes one again. " if self.replay else ". "
        return (
            f"{skipped} of {step + 1} steps had an input, loss or gradient that was not finite; "
            f"at most {self.allowed:.2%} may. The last one: {fault}. {kept + again if kept else ''}"
            "Look at the data, lower training.learning_rate, or set training.clip."
        )


def bad_input(batch: object) -> Fault | None:
    """The tensors of a batch that are not finite, if there are any."""
    names = tuple(name for name, value in _tensors(plain(batch), "") if not _is_finite(value))
    return Fault("input", names) if names else None


def bad_gradient(network: nn.Module) -> Fault | None:
    """The parameters whose gradient is not finite, or its square, which optimizers keep."""
    named = [(name, p.grad) for name, p in network.named_parameters() if p.grad is not None]
    # A finite loss can have gradients that are not. All are looked at together, as most are good.
    squares = torch.stack(torch._foreach_norm([gradient for _, gradient in named])).square()
    if bool(torch.isfinite(squares).all()):
        return None
    good = torch.isfinite(squares).tolist()
    return Fault("gradient", tuple(named[i][0] for i in range(len(named)) if not good[i]))


def origin_of_nan(passes: Callable[[], object]) -> str:
    """What autograd's anomaly detection says of passes forward and backward.

    Args:
        passes: Goes forward and backward.

    Returns:
        The operation whose derivative was the first NaN, and where it was called; empty if none.
    """
    with warnings.catch_warnings(record=True) as caught, torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("always")
        try:
            passes()
        except RuntimeError as error:
            if "returned nan" not in str(error):
                raise
            return "\n".join([str(error), *(str(warning.message) for warning in caught)])
    return ""


def plain(value: object) -> Any:
    """A batch as containers of tensors and plain values; what is neither becomes its ``repr``."""
    if isinstance(value, Tensor | str | int | float | bool | None):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return repr(value)


def _tensors(tree: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield name or "batch", tree
    elif isinstance(tree, dict | list):
        items = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in items:
            yield from _tensors(value, f"{name}.{key}".removeprefix("."))


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _save(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())
