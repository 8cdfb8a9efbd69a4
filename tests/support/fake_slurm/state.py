"""What the commands of the fake share: a file that one process at a time holds."""

import fcntl
import json
from pathlib import Path
from typing import Any


class State(dict[str, Any]):
    """The state as a file, locked while the block lasts."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory
        self._file = (directory / "state.json").open("a+")

    def __enter__(self) -> "State":
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._file.seek(0)
        self.update(json.loads(self._file.read() or "{}"))
        return self

    def __exit__(self, *_: object) -> None:
        self._file.seek(0)
        self._file.truncate()
        json.dump(self, self._file)
        self._file.close()
