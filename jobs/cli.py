"""The command line, ``yaoki``.

Only what a command needs is imported: ``--help``, ``plan`` and ``status`` come without torch,
wandb and zarr.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from cluster import slurmbox
from cluster.slurm import SlurmError
from cluster.stage import RunError
from jobs.commands import doctor, inspect, launch, results, steer
from jobs.commands.exits import FAILED, INTERRUPTED, IO_ERROR, UNAVAILABLE, USAGE
from jobs.launch import StageFailedError
from pipelines.config import ConfigError

_EPILOG = """exit codes: 0 done; 1 members failed or the ensemble is damaged; 2 bad command or
configuration; 69 Slurm or a package is missing; 74 the disk refused; 130 interrupted, to be
continued with the same command"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; an expected error is one message, no traceback."""
    namespace = parser().parse_args(arguments)
    try:
        code: int = namespace.handler(namespace)
    except (ConfigError, RunError) as error:
        return _fail(error, USAGE)
    except StageFailedError as error:
        return _fail(error, FAILED)
    except SlurmError as error:
        return _fail(error, UNAVAILABLE)
    except BrokenPipeError:
        # The reader, `head` say, has seen enough; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(error, IO_ERROR)
    except KeyboardInterrupt:
        return _fail("interrupted; the members have saved, the same command goes on", INTERRUPTED)
    return code


def parser() -> argparse.ArgumentParser:
    """The parser with every subcommand."""
    top = argparse.ArgumentParser(
        prog="yaoki",
        description="Array jobs on Slurm in which no fault costs more than the step it interrupts.",
        epilog=_EPILOG,
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for module in (launch, inspect, steer, results, doctor):
        module.add_parsers(commands)
    slurmbox.add_parser(commands)
    return top


def _fail(error: object, code: int) -> int:
    print(f"yaoki: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
