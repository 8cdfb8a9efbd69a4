"""What the LSTM job's configuration says, sweeps and refuses."""

import dataclasses
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from support.lstm_job import resolved

from jobs.lstm.config import (
    LstmConfig,
    NetworkConfig,
    SitesConfig,
    SplitConfig,
    Variant,
    stages,
)
from kernels.lstm import LSTMSettings
from kernels.lstm.settings import Variant as KernelVariant
from pipelines.plan import identity


def test_the_lists_here_are_those_of_the_kernels() -> None:
    both = {
        name.replace("_additive", "").replace("_multiplicative", "") for name in get_args(Variant)
    }
    assert both == set(get_args(KernelVariant))
    settings = {field.name for field in dataclasses.fields(LSTMSettings)}
    mine = set(NetworkConfig.model_fields)
    assert settings - mine == {"dynamic", "static", "outputs", "modulation"}
    assert mine < settings


def test_the_whole_job_has_nine_variants_on_three_splits_from_five_seeds() -> None:
    config = resolved(preset="full")
    assert config.members == 9 * 3 * 5
    assert {stage.name: stage.members for stage in stages(config)} == {
        "simulate": 16,
        "prepare": 1,
        "train": 135,
        "collect": 1,
    }
    found = config.member_config(134)
    assert (found.network.variant, found.split.kind) == ("ea_lstm", "warm_site")
    assert config.point_of(5) == {"network.variant": "none", "split.kind": "time"}
    assert [config.seed_number(member) for member in (0, 4, 5, 134)] == [0, 4, 0, 4]


@pytest.mark.parametrize("preset", ["full", "small", "sites", "davos", "smoke"])
def test_tracking_and_resources_continue_a_run(preset: str) -> None:
    config = resolved(preset=preset)
    same = resolved("tracking.tensorboard=true", "resources.train.time=10:00:00", preset=preset)
    assert identity(same) == identity(config)
    assert identity(resolved("forcing.scale=7.0", preset=preset)) != identity(config)


def test_days_are_cut_in_order_and_leap_years_count() -> None:
    assert SitesConfig(years=4).days == 1461
    assert SplitConfig(validation=0.1, test=0.2).cuts(1000) == (700, 800)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"sites": {"count": 9, "per_shard": 4}}, "multiple of per_shard, 4; found 9"),
        ({"split": {"validation": 0.5, "test": 0.5}}, "leave a share for training"),
        ({"sites": {"count": 2, "per_shard": 1}}, "2 sites, 2 of them held out"),
        ({"network": {"longest": 2}}, "0 or more than 2 days"),
        ({"network": {"head": "exchange"}}, "data.source=process_model: expected exchange or"),
        ({"objective": {"baseline": "regression"}}, "with a baseline take linear"),
        ({"split": {"kind": "dates"}}, "needs train_until, and test_from after it"),
        (
            {"split": {"kind": "time"}, "evaluation": {"horizon": 500}},
            "split.kind=time leaves 219 days for a window of test, which has 500",
        ),
        ({"split": {"kind": "warm_site", "warm_years": 1}}, "leaves 365 days .* training"),
        ({"windows": {"context": 2000}}, "split.kind=site leaves"),
        ({"forcing": {"coin": "batch"}, "network": {"dropout": 0.1}}, "take coin=sample"),
        ({"evaluation": {"drift_years": 6}}, "site leaves 2011 days .* test, which has 2192"),
        (
            {"network": {"site_levels": True, "head": "linear"}},
            "head=linear needs site_levels=false",
        ),
        ({"sweep": {"sites": {"count": [4]}}}, "expected to sweep values of network, forcing"),
        ({"sweep": {"split": {"warm_years": [2, 1], "kind": ["warm_site"]}}}, "leaves 365 days"),
        ({"sweep": {"network": {"variant": ["lstm"]}}}, "network.variant"),
    ],
)
def test_impossible_values_are_refused_before_anything_runs(
    overrides: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        LstmConfig.model_validate(overrides)
