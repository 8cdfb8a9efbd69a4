"""Laws of durable files: the old or the new, never a part; lines that do not mix."""

import errno
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.disks import fill, small_disk

from cluster.records.files import append_line, read_lines, replacing, write_atomic

_REPLACE_FOREVER = """
import itertools, sys
from pathlib import Path
from cluster.records.files import write_atomic
path = Path(sys.argv[1])
for letter in itertools.cycle((b"b", b"a")):
    write_atomic(path, letter * 1_000_000)
    print(flush=True)
"""

_APPEND = """
import sys
from pathlib import Path
from cluster.records.files import append_line
for number in range(60):
    text = sys.argv[2] * (1 + 997 * number % 6000)
    append_line(Path(sys.argv[1]), {"writer": sys.argv[2], "number": number, "text": text})
"""

records = st.dictionaries(st.text(max_size=5), st.integers() | st.text(), max_size=3)


def test_a_killed_writer_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"a" * 1_000_000)
    for _ in range(5):
        command = [sys.executable, "-c", _REPLACE_FOREVER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(random.uniform(0.0, 0.02))
            writer.send_signal(signal.SIGKILL)
        content = path.read_bytes()
        assert len(content) == 1_000_000
        assert content in (b"a" * 1_000_000, b"b" * 1_000_000)


def _write_half(path: Path) -> None:
    with replacing(path) as file:
        file.write(b"half of the new")
        raise LookupError


def test_a_block_that_raises_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_atomic(path, b"old")
    with pytest.raises(LookupError):
        _write_half(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        write_atomic(disk / "state", b"old")
        with pytest.raises(OSError, match="No space left") as caught:
            write_atomic(disk / "state", b"x" * 100_000)
        assert caught.value.errno == errno.ENOSPC
        assert (disk / "state").read_bytes() == b"old"
        assert list(disk.iterdir()) == [disk / "state"]


def test_a_full_disk_loses_no_line_that_was_appended(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        path = disk / "lines"
        append_line(path, {"number": 1})
        ballast = fill(disk)
        with pytest.raises(OSError, match="No space left"):
            append_line(path, {"number": 2, "text": "x" * 8192})
        ballast.unlink()
        append_line(path, {"number": 3})
        assert read_lines(path) == [{"number": 1}, {"number": 3}]


@given(st.lists(records, min_size=1, max_size=4), records, st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_torn_line_spoils_itself_alone(
    tmp_path: Path, written: list[dict[str, object]], after: dict[str, object], data: st.DataObject
) -> None:
    path = tmp_path / "lines"
    path.unlink(missing_ok=True)
    for record in written:
        append_line(path, record)
    last = len(json.dumps(written[-1], sort_keys=True)) + 1
    torn = data.draw(st.integers(0, last), label="bytes torn off")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - torn])
    survivors = written if torn <= 1 else written[:-1]
    assert read_lines(path) == survivors
    append_line(path, after)
    assert read_lines(path) == [*survivors, after]


def test_noise_between_lines_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_line(path, {"number": 1})
    with path.open("ab") as file:
        file.write(b"\0" * 100 + b'\n\xff\xfe{"number"\n[1, 2]\n3\n')
    append_line(path, {"number": 2})
    assert read_lines(path) == [{"number": 1}, {"number": 2}]


def test_concurrent_appenders_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    command = [sys.executable, "-c", _APPEND, str(path)]
    writers = [subprocess.Popen([*command, letter]) for letter in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    found = read_lines(path)
    for letter in "abc":
        mine = [record for record in found if record["writer"] == letter]
        assert [record["number"] for record in mine] == list(range(60))
        assert all(set(record["text"]) == {letter} for record in mine)
