"""Every workload tells what each of its values means."""

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
