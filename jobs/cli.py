"""The command line, ``yaoki``: makes sure that it is our packages that run, and hands over.

Only what a command needs is imported: ``--help``, ``plan`` and ``status`` come without torch,
wandb and zarr.
"""

import sys
from collections.abc import Sequence

from jobs.shadowing import shadows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; an expected error is one message, no traceback."""
    hidden = list(shadows())
    if hidden:
        for name, text in hidden:
            print(f"yaoki: {name}: {text}. Uninstall or move that one.", file=sys.stderr)
        return 1
    from jobs.commands.dispatch import dispatch  # what it imports may be what is hidden

    return dispatch(arguments)


if __name__ == "__main__":
    sys.exit(main())
