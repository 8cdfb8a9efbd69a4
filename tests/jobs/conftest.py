"""One whole run of the job, against which the tests hold what became of others."""

from pathlib import Path

import pytest
from support.commandline import SMOKE, run_of, yaoki


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a job that nothing disturbed. Tests copy it, and change it never.

    Its path has spaces and other scripts in it, and so has everything that the job is told.
    """
    runs = tmp_path_factory.mktemp("undisturbed") / "läufe 七転 八起" / "'a' $HOME"
    runs.mkdir(parents=True)
    done = yaoki("run", *SMOKE, "--runs", runs)
    assert done.code == 0, done.err
    return run_of(runs)
