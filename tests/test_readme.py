"""What the README shows, tried as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()

TRAINER = """
class Trainer:
    def __init__(self, learning_rate):
        self.value, self.steps_done, self.steps_total = 1.0, 0, 5
        self.rate = learning_rate

    def step(self):
        self.value -= self.rate * self.value
        self.steps_done += 1

    def state_dict(self):
        return {"value": self.value, "steps_done": self.steps_done}

    def load_state_dict(self, state):
        self.value, self.steps_done = state["value"], state["steps_done"]

    def result(self):
        return self.value
"""


def test_the_example_runs_as_a_script(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    script = tmp_path / "mine.py"
    script.write_text(TRAINER + block)
    environment = {key: value for key, value in os.environ.items() if key != "SLURM_CONF"}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    printed = [float(text) for text in done.stdout.strip("[]\n").split(",")]
    assert printed == pytest.approx([(1 - rate) ** 5 for rate in (1e-3, 3e-4, 1e-4)])


def test_every_page_and_picture_that_is_named_is_there() -> None:
    named = re.findall(r"\]\(([^)#:]+)\)", README)
    assert named
    assert [name for name in named if not (Path(__file__).parents[1] / name).exists()] == []
