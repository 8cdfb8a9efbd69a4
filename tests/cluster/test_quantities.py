"""Laws of walltimes and memory sizes: what Slurm means by a text is what we read and write."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.scheduler.quantities import MemorySize, Walltime


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        (90, 5400),
        ("12:30", 750),
        ("90:00", 5400),
        ("12:00:00", 43_200),
        ("48:00:00", 172_800),
        ("1-06", 108_000),
        ("1-06:30", 109_800),
        ("1-06:30:15", 109_815),
        ("0-00:00:01", 1),
        (" 00:10:00 ", 600),
    ],
)
def test_every_form_of_slurm_is_read(text: str | int, seconds: int) -> None:
    assert Walltime.parse(text).seconds == seconds


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("25:61:00", "minutes must be below 60, found 61"),
        ("10:60", "seconds must be below 60, found 60"),
        ("1-24", "hours must be below 24, found 24"),
        ("1-23:59:60", "seconds must be below 60"),
        ("0", "longer than zero"),
        (0, "longer than zero"),
        ("00:00:00", "longer than zero"),
        ("-5", "expected a walltime"),
        (-5, "expected a walltime"),
        ("1:2:3:4", "expected a walltime"),
        ("1h", "expected a walltime"),
        ("", "expected a walltime"),
        ("١٢", "expected a walltime"),
        (True, "expected a walltime"),
        (1.5, "expected a walltime"),
        (None, "expected a walltime"),
    ],
)
def test_an_impossible_walltime_is_refused(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Walltime.parse(value)


@given(st.integers(min_value=1, max_value=10**9))
def test_a_walltime_survives_its_own_text(seconds: int) -> None:
    walltime = Walltime(seconds)
    assert Walltime.parse(str(walltime)) == walltime


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_canonical_text_is_a_fixed_point(days: int, hours: int, minutes: int, seconds: int) -> None:
    text = f"{hours:02d}:{minutes:02d}:{seconds:02d}"
    text = f"{days}-{text}" if days else text
    if (days, hours, minutes, seconds) != (0, 0, 0, 0):
        assert str(Walltime.parse(text)) == text


@given(st.integers(1, 10**6))
def test_minutes_are_those_that_slurm_grants(seconds: int) -> None:
    minutes = Walltime(seconds).minutes
    assert (minutes - 1) * 60 < seconds <= minutes * 60


@pytest.mark.parametrize(
    ("text", "mebibytes"),
    [
        ("16G", 16_384),
        ("16GB", 16_384),
        ("16GiB", 16_384),
        ("16 gb", 16_384),
        ("512M", 512),
        ("1.5G", 1536),
        ("2T", 2 * 1024**2),
        ("2048K", 2),
        ("0.1T", None),
    ],
)
def test_memory_sizes_are_powers_of_1024(text: str, mebibytes: int | None) -> None:
    if mebibytes is None:
        with pytest.raises(ValueError, match=r"1, 2, 3 \.\.\. MiB"):
            MemorySize.parse(text)
    else:
        assert MemorySize.parse(text).mebibytes == mebibytes
        assert MemorySize.parse(text).bytes == mebibytes * 1024**2


@pytest.mark.parametrize("value", ["16", 16, "", "G", "-1G", "1e3M", "16 GBs", None, True, 1.5])
def test_a_memory_size_without_a_clear_unit_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected a memory size with its unit"):
        MemorySize.parse(value)


@pytest.mark.parametrize("text", ["0G", "1K", "1.0001M"])
def test_a_memory_size_must_be_whole_mebibytes(text: str) -> None:
    with pytest.raises(ValueError, match="MiB"):
        MemorySize.parse(text)


@given(st.integers(1, 2**40))
def test_a_memory_size_survives_its_own_text(mebibytes: int) -> None:
    size = MemorySize(mebibytes)
    assert MemorySize.parse(str(size)) == size


def test_quantities_order_by_size() -> None:
    assert Walltime.parse("2:00:00") < Walltime.parse("1-00")
    assert MemorySize.parse("900M") < MemorySize.parse("1G")


def test_the_module_needs_no_pydantic() -> None:
    code = "import sys, cluster.scheduler.quantities; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
