"""Exit codes of the command line; above 2 they are those of sysexits.h."""

import os
import sys

OK = 0
FAILED = 1
USAGE = 2
UNAVAILABLE = os.EX_UNAVAILABLE
IO_ERROR = os.EX_IOERR
INTERRUPTED = 130

#: Where the errors are that a command may expect.
_ERRORS = {
    ("cluster.scheduler.slurm", "SlurmError"): UNAVAILABLE,
    ("cluster.stage", "RunError"): USAGE,
    ("jobs.launch", "StageFailedError"): FAILED,
    ("pipelines.config", "ConfigError"): USAGE,
    ("pipelines.search", "SearchError"): FAILED,
    ("pipelines.tracking", "MetricsError"): FAILED,
    ("pipelines.wandb_server", "SyncError"): UNAVAILABLE,
}


def exit_code(error: Exception) -> int | None:
    """The exit code for an error of a command, or None for one that nobody expects."""
    for (module, name), code in _ERRORS.items():
        # What was not imported was not raised; to import it now would only take time.
        if isinstance(error, getattr(sys.modules.get(module), name, ())):
            return code
    return IO_ERROR if isinstance(error, OSError) else None
