"""Every workload tells what each of its values means, and is planned without torch."""

import subprocess
import sys

import pytest

from jobs.catalog import WORKLOADS
from pipelines.config import meanings


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_value_has_a_meaning(name: str) -> None:
    resolved = WORKLOADS[name].resolve(None, [])
    told = meanings(type(resolved.config))
    dumb = [
        path
        for path in resolved.provenance
        # A dictionary of values, such as budgets, is told of as a whole.
        if not any(path == known or path.startswith(f"{known}.") for known in told)
    ]
    assert dumb == []


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_plan_needs_no_torch(name: str) -> None:
    code = (
        "import sys; from jobs.catalog import WORKLOADS as w; from pathlib import Path;"
        f"w[{name!r}].plan(w[{name!r}].resolve('smoke', []).config, Path()).record();"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
