"""The comparison of a finished run of the LSTM job on towers, beside the goals for CH-DAV.

A method is said to miss a goal, or none.

    yaoki run lstm --preset davos                          # GPP and RECO partitioned by night
    yaoki run lstm --preset davos data.partitioning=day    # by day
    python -m benchmarks.towers runs/lstm-...
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.report import load_sections

#: NSE of GPP, RECO and NEE, free run over 30 days, trained until 2018 and tested on 2021 and 2022.
GOALS = (0.85, 0.55, 0.50)


def lines(run: Path, goals: Sequence[float] = GOALS) -> Iterator[str]:
    """The comparison as a table of Markdown, with what each method misses.

    Raises:
        SystemExit: The run has no comparison.
    """
    tables = [table for section in load_sections(run) for table in section.tables]
    found = [table for table in tables if table.title == "Comparison"]
    if not found:
        raise SystemExit(f"{run}: expected a collected run of the LSTM job on towers")
    (table,) = found
    yield "| " + " | ".join([*table.columns[1:], "Goals"]) + " |"
    yield "|---" * len(table.columns) + "|"
    for row in table.rows:
        scores = [float(str(cell).split()[0]) for cell in row[3:]]
        missed = [
            str(name)
            for name, score, goal in zip(table.columns[3:], scores, goals, strict=True)
            if score < goal
        ]
        verdict = f"{', '.join(missed)} missed" if missed else "reached"
        yield "| " + " | ".join([*map(str, row[1:]), verdict]) + " |"
    yield "| goal | | " + " | ".join(f"{goal:.2f}" for goal in goals) + " | |"


def main() -> None:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    print("\n".join(lines(parser.parse_args().run)))


if __name__ == "__main__":
    main()
