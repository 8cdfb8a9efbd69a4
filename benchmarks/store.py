"""What writing a member costs: yaoki, tensorstore, zarr, h5py and np.save, side by side.

    python -m benchmarks.store                  # 134 MB a member, uncompressed and lz4
    python -m benchmarks.store --megabytes 500 --rounds 5
    python -m benchmarks.store --gather 1024    # stores of 1 MiB, linked and copied
    python -m benchmarks.store --keep-bits 12   # what lossy rounding saves, and costs in accuracy

Every writer writes the same turbulence-like float32 array to a new place, in the same layout where
it has one: one shard a member, inner chunks near 1 MiB, one thread. They take turns; printed are
the medians of CPU seconds a GB (user and system), its ratio to tensorstore's, and what the writer
guarantees. yaoki's includes the digest of every byte, fsync, rename and the commit.
"""

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

# Read at import.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("BLOSC_NTHREADS", "1")

import h5py
import numpy as np
import tensorstore
import zarr
from numpy.typing import NDArray

from pipelines.ensemble import ArraySpec, create_ensemble, gather, write_member
from pipelines.ensemble.layout import Codec
from pipelines.ensemble.shards import Shard, rounded

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Peer:
    """A writer; ``prepare`` makes its store, outside of what is timed."""

    name: str
    promises: str
    prepare: Callable[[Path, ArraySpec], Any]
    write: Callable[[Any, Array], None]


def turbulence(megabytes: int) -> Array:
    """Fields with a decaying spectrum, (t, 256, 256): noise alone would flatter no codec."""
    rng = np.random.default_rng(0)
    steps = max(1, round(megabytes * 1e6 / (4 * 256**2)))
    wavenumber = np.hypot(*np.meshgrid(np.fft.fftfreq(256, 1 / 256), np.arange(129), indexing="ij"))
    damping = (1 + wavenumber) ** -1.5
    fields = (np.fft.irfft2(np.fft.rfft2(rng.standard_normal((256, 256))) * damping), 1.0)
    return np.stack(
        [np.roll(fields[0], 3 * step, 0) * (1 + 1e-3 * step) for step in range(steps)]
    ).astype(np.float32)


def own_store(path: Path, spec: ArraySpec) -> Path:
    create_ensemble(path / "e.zarr", 1, [spec], {"config_digest": "benchmark"})
    return path / "e.zarr"


def own_write(path: Path, values: Array) -> None:
    write_member(path, 0, {"u": values}, {"config_digest": "benchmark"}, fence=1)


def tensorstore_store(path: Path, spec: ArraySpec) -> Any:
    inner = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if spec.codec != "none":
        blosc = {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle", "typesize": 4}
        inner.append({"name": "blosc", "configuration": blosc})
    sharding = {
        "chunk_shape": [1, *spec.inner],
        "codecs": inner,
        "index_codecs": [inner[0], {"name": "crc32c"}],
    }
    metadata = {
        "shape": [1, *spec.shape],
        "data_type": spec.dtype,
        "fill_value": "NaN",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, *spec.shape]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    store = {"driver": "file", "path": str(path / "t.zarr")}
    one = {"data_copy_concurrency": {"limit": 1}, "file_io_concurrency": {"limit": 1}}
    described = {"driver": "zarr3", "kvstore": store, "metadata": metadata, "context": one}
    return tensorstore.open(described, create=True).result()


def tensorstore_write(store: Any, values: Array) -> None:
    store[0].write(values).result()


def zarr_store(path: Path, spec: ArraySpec) -> Any:
    codec = zarr.codecs.BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=4)
    return zarr.create_array(
        path / "z.zarr",
        shape=(1, *spec.shape),
        shards=(1, *spec.shape),
        chunks=(1, *spec.inner),
        dtype=spec.dtype,
        compressors=None if spec.codec == "none" else codec,
    )


def zarr_write(store: Any, values: Array) -> None:
    store[0] = values


def h5py_write(path: Path, values: Array) -> None:
    with h5py.File(path / "h.h5", "w") as file:
        file["u"] = values


def numpy_write(path: Path, values: Array) -> None:
    np.save(path / "n.npy", values)


def folder(path: Path, _spec: ArraySpec) -> Path:
    return path


PEERS = (
    Peer("yaoki", "digests, fsync, commit", own_store, own_write),
    Peer("tensorstore", "rename, fsync", tensorstore_store, tensorstore_write),
    Peer("zarr", "rename", zarr_store, zarr_write),
    Peer("h5py, contiguous", "nothing", folder, h5py_write),
    Peer("np.save", "nothing", folder, numpy_write),
)


def seconds_a_gigabyte(peer: Peer, spec: ArraySpec, values: Array) -> float:
    """CPU seconds of one write, in all threads of this process."""
    path = Path(tempfile.mkdtemp(prefix="yaoki-store-"))
    try:
        prepared = peer.prepare(path, spec)
        before = resource.getrusage(resource.RUSAGE_SELF)
        peer.write(prepared, values)
        after = resource.getrusage(resource.RUSAGE_SELF)
    finally:
        shutil.rmtree(path)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent / (values.nbytes / 1e9)


def measure(codec: Codec, values: Array, rounds: int) -> None:
    spec = ArraySpec("u", values.shape, ("time", "y", "x"), codec=codec)
    peers = [p for p in PEERS if codec == "none" or p.prepare is not folder]
    spent: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(rounds):
        for peer in peers:
            spent[peer.name].append(seconds_a_gigabyte(peer, spec, values))
    medians = {name: statistics.median(times) for name, times in spent.items()}
    print(f"\n{codec}, inner chunks {spec.inner}, median of {rounds}")
    print("| writer | CPU s/GB | of tensorstore's | promises |\n|---|---|---|---|")
    for peer in peers:
        ratio = medians[peer.name] / medians["tensorstore"]
        print(f"| {peer.name} | {medians[peer.name]:.2f} | {ratio:.2f} | {peer.promises} |")


def measure_rounding(values: Array, keep_bits: int) -> None:
    """Bytes of a compressed shard as it is and rounded, and the error that rounding makes."""
    exact = ArraySpec("u", values.shape, ("time", "y", "x"), codec="lz4-bitshuffle")
    error = rounded(values, keep_bits) - values
    for spec in (exact, replace(exact, keep_bits=keep_bits)):
        ratio = values.nbytes / Shard.encode(spec, values).stored.size
        print(f"keep_bits {spec.keep_bits}: compressed {ratio:.2f} times")
    largest, typical = np.abs(error).max() / values.std(), error.std() / values.std()
    print(f"error, in standard deviations: {largest:.1e} at most, {typical:.1e} typical")


def measure_gathering(members: int, rounds: int) -> None:
    """Time of gathering stores by link, with all checks and commits, beside what the disk allows.

    A disk of a shared host is now fast, now slow: a gathering is mostly as many small files made
    durable as there are members, so these alone are timed beside it.
    """
    path = Path(tempfile.mkdtemp(prefix="yaoki-gather-"))
    values = turbulence(1)
    spec = ArraySpec("u", values.shape, ("time", "y", "x"))
    attributes = {"config_digest": "benchmark"}
    linked, durable, copied = [], [], []
    try:
        stores = {m: own_store(path / str(m), spec) for m in range(members)}
        for member, store in stores.items():
            write_member(store, 0, {"u": values + np.float32(member)}, attributes, fence=1)
        for number in range(rounds):
            run = path / f"run {number}" / "ensemble.zarr"
            create_ensemble(run, members, [spec], attributes)
            linked.append(_seconds(partial(gather, run, stores)))
            durable.append(_seconds(partial(_durable_files, run.parent, members)))
            copied.append(_seconds(partial(_copy_shards, run, spec, stores)))
            shutil.rmtree(run.parent)
    finally:
        shutil.rmtree(path)
    megabytes = values.nbytes / 2**20
    print(f"{members} stores of {megabytes:.0f} MiB, median of {rounds}")
    for name, spent in (
        ("gather, by link", linked),
        ("durable files alone", durable),
        ("copies, not durable", copied),
    ):
        wall, cpu = (statistics.median(times) for times in zip(*spent, strict=True))
        fastest = min(times[0] for times in spent)
        print(f"{name:<20} {wall:.2f} s, {cpu:.2f} s of CPU; fastest {fastest:.2f} s")


def _durable_files(path: Path, number: int) -> None:
    """As many files as there are markers, of a marker's size."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(_write_durably, (path / f"marker {i}" for i in range(number))))


def _write_durably(path: Path) -> None:
    with path.open("wb") as file:
        file.write(bytes(1500))
        os.fsync(file.fileno())


def _copy_shards(path: Path, spec: ArraySpec, stores: Mapping[int, Path]) -> None:
    for member, store in stores.items():
        shutil.copyfile(store / spec.shard(0), path / f"copy {member}")


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU time."""
    os.sync()  # or it would wait for what was written before
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=134, help="of a member")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--gather", type=int, metavar="N", help="gather N stores instead")
    parser.add_argument("--keep-bits", type=int, metavar="N", help="round to N bits instead")
    arguments = parser.parse_args()
    if arguments.keep_bits:
        measure_rounding(turbulence(arguments.megabytes), arguments.keep_bits)
        return
    if arguments.gather:
        measure_gathering(arguments.gather, arguments.rounds)
        return
    values = turbulence(arguments.megabytes)
    for codec in ("none", "lz4-bitshuffle"):
        measure(codec, values, arguments.rounds)


if __name__ == "__main__":
    main()
