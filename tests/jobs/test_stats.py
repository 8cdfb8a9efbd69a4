"""``stats``: the statistics of an ensemble from the command line."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
import zarr
from support.commandline import yaoki

from pipelines.ensemble import ArraySpec, collect, create_ensemble, write_member
from pipelines.evaluation import crps

MEMBERS = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
TRUTH = np.random.default_rng(1).standard_normal((3, 5))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run = tmp_path / "a run"
    (run / "members").mkdir(parents=True)
    specs = [ArraySpec("u", (3, 5), ("time", "x")), ArraySpec("loss", (), ())]
    create_ensemble(run / "ensemble.zarr", 4, specs, {"config_digest": "d"})
    for member, u in enumerate(MEMBERS):
        values = {"u": u, "loss": np.zeros((), np.float32)}
        write_member(run / "ensemble.zarr", member, values, {"config_digest": "d"}, fence=1)
    return run


def test_statistics_on_the_terminal_in_json_and_in_a_store(run: Path) -> None:
    collect(run / "ensemble.zarr")
    truth, out = run.parent / "truth.h5", run / "statistics.zarr"
    with h5py.File(truth, "w") as file:
        file["u"] = TRUTH
    record = yaoki("stats", run, "--truth", truth, "--out", out, "--json").record
    assert record["members"] == [0, 1, 2, 3]
    assert record["arrays"]["u"]["crps"] == pytest.approx(crps(MEMBERS, TRUTH))
    assert sum(record["arrays"]["u"]["rank_histogram"]) == TRUTH.size
    assert record["arrays"]["loss"]["crps"] is None
    with xarray.open_zarr(out) as found:
        np.testing.assert_allclose(found.u_mean, MEMBERS.mean(axis=0), rtol=1e-5)
    zarr.create_array(run / "truth.zarr", name="u", data=TRUTH)
    done = yaoki("stats", run)
    assert (done.code, done.err) == (0, "")
    assert f"{record['arrays']['u']['crps']:.6g}" in done.out
    assert "ranks of u: " in done.out


def test_what_has_no_statistics_is_told(run: Path) -> None:
    assert "a memory size with its unit" in yaoki("stats", run, "--memory", "16").err
    done = yaoki("stats", run)
    assert (done.code, done.out) == (1, "")
    assert "collect the ensemble first" in done.err
    (run / "no.h5").write_bytes(b"")
    done = yaoki("stats", run, "--truth", run / "no.h5")
    assert (done.code, done.out) == (1, "")
    assert "expected HDF5 or a Zarr group" in done.err
