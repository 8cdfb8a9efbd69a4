"""Where a kill meets an attempt, drawn from a seed."""

import io
import os
import signal
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from benchmarks.kills.work import ARRAYS


class Aim(StrEnum):
    """What a kill is aimed at."""

    ANYWHERE = "anywhere"
    SHARD = "the write of a shard"
    COMMIT = "the write of a commit"


class Moment(StrEnum):
    """Moments of a durable write."""

    BYTES = "some of the bytes are written"
    DURABLE = "all bytes are durable, under a temporary name"
    NAMED = "it has its name, and the directory is not durable"


@dataclass(frozen=True)
class Blow:
    """One SIGKILL.

    Attributes:
        aim: What it is aimed at.
        moment: When in that write.
        array: Whose shard.
        share: How much of the bytes, or of the time that an attempt takes, goes before it.
        heard: Whether the launcher notes the death; where launcher or node die too, nobody does.
    """

    aim: Aim
    moment: Moment
    array: str
    share: float
    heard: bool

    @property
    def places(self) -> tuple[str, ...]:
        """What temporary files have in their paths, in the write of which it comes at the latest.

        A shard that an earlier attempt has left is not written again, but the commit always is;
        and a kill at any time has come when the result is written, which is the last write.
        """
        commit, result = "/commits/.", "/.result.pkl."
        return {
            Aim.ANYWHERE: (result,),
            Aim.SHARD: (f"/{self.array}/.c.", commit),
            Aim.COMMIT: (commit,),
        }[self.aim]


def draw(rng: np.random.Generator) -> Blow:
    """Half of the kills come at any time, a quarter in a shard, a quarter in a commit."""
    return Blow(
        [Aim.ANYWHERE, Aim.ANYWHERE, Aim.SHARD, Aim.COMMIT][rng.integers(4)],
        list(Moment)[rng.integers(3)],
        ARRAYS[rng.integers(len(ARRAYS))].name,
        float(rng.random()),
        bool(rng.integers(2)),
    )


def deal(rng: np.random.Generator, members: int, kills: int) -> list[Blow | None]:
    """A card for each attempt, None where it is let live; the last one always is."""
    cards: list[Blow | None] = [draw(rng) for _ in range(kills)]
    cards += [None] * (members - 1)
    return [cards[place] for place in rng.permutation(len(cards))] + [None]


def die() -> None:
    """What a kill from outside does, at this very line."""
    os.kill(os.getpid(), signal.SIGKILL)


class _Torn(io.BufferedWriter):
    """A file that takes a share of what is first written to it, and its process is gone."""

    share = 0.0

    def write(self, content: Any, /) -> int:
        view = memoryview(content)
        super().write(view[: int(self.share * len(view))])
        self.flush()
        die()
        return 0


def doom(blow: Blow) -> None:
    """Kill this process when it comes to the place of the blow."""
    renamed = False

    def torn(descriptor: int, _mode: str) -> _Torn:
        file = _Torn(io.FileIO(descriptor, "wb"))
        file.share = blow.share
        return file

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal renamed
        if renamed and event == "open":
            die()
        if event not in ("tempfile.mkstemp", "os.rename"):
            return
        if not any(place in str(arguments[0]) for place in blow.places):
            return
        if event == "tempfile.mkstemp" and blow.moment is Moment.BYTES:
            vars(os).update(fdopen=torn)
        if event == "os.rename" and blow.moment is Moment.DURABLE:
            die()
        renamed = event == "os.rename"

    sys.addaudithook(watch)


def set_clock(seconds: float) -> None:
    """Let this process's clock be off, as that of another node may be."""
    right = time.time
    vars(time).update(time=lambda: right() + seconds)
