"""Carbon fluxes add up to the last bit and have the signs that they must."""

from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from support.lstm import inputs, model

from kernels.lstm import (
    AnomalyHead,
    CarbonHead,
    ExchangeHead,
    FluxScale,
    LSTMSettings,
    SiteTerms,
    StaticDynamicLSTM,
    ecosystem_exchange,
    mass_residual,
)
from kernels.lstm.heads import FluxHead

SCALE = FluxScale(torch.tensor([5.0, 2.5, 0.4, 2.1]), torch.tensor([3.0, 1.6, 1.2, 0.9]))


@settings(deadline=None)
@drawn(
    dtype=st.sampled_from([torch.float32, torch.float64]),
    size=st.floats(0.01, 1e3),
    seed=st.integers(0, 2**31),
)
def test_fluxes_add_up_exactly_whatever_the_network_says(
    dtype: torch.dtype, size: float, seed: int
) -> None:
    head = CarbonHead(8, SCALE).to(dtype)
    hidden = size * torch.randn(50, 8, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    fluxes = head(hidden)
    gpp, npp, nep, rh = fluxes.unbind(-1)
    assert torch.equal(nep, npp - rh)
    assert not mass_residual(fluxes).any()
    assert (gpp >= 0).all()
    assert (rh >= 0).all()
    assert ((npp >= 0) & (npp <= gpp)).all()


def test_levels_multiply_production_and_respiration_and_move_their_efficiency() -> None:
    head, hidden = CarbonHead(8, SCALE).double(), torch.randn(7, 2, 8, dtype=torch.float64)
    levels = torch.tensor([[0.0, 0.0, 0.0], [1.5, -0.7, -2.0]], dtype=torch.float64)
    plain, moved = head(hidden), head(hidden, SiteTerms(levels))
    torch.testing.assert_close(moved[:, 0], plain[:, 0])
    factors = levels[1].exp()
    torch.testing.assert_close(moved[:, 1, 0], plain[:, 1, 0] * factors[0])
    torch.testing.assert_close(moved[:, 1, 3], plain[:, 1, 3] * factors[2])
    kept = [fluxes[:, 1, 1] / fluxes[:, 1, 0] for fluxes in (plain, moved)]
    torch.testing.assert_close(torch.logit(kept[1]), torch.logit(kept[0]) + levels[1, 1])
    assert not mass_residual(moved).any()


def test_all_sites_begin_at_the_same_levels_and_learn_their_own() -> None:
    torch.manual_seed(1)
    choice = LSTMSettings(3, 2, 4, "none", head="carbon", head_hidden=6, site_levels=True)
    made = StaticDynamicLSTM(choice, SCALE).double()
    given = inputs(static=2, outputs=4)
    for terms in made.statics(given.static_x).site:
        assert terms is not None
        assert not terms.any()
    made(*given).outputs.square().sum().backward()
    for layer in (made.statics.to_levels, made.statics.to_modulation):
        assert layer is not None
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().sum(dim=1).min() > 0


@pytest.mark.parametrize("kind", [CarbonHead, ExchangeHead, AnomalyHead])
def test_a_hidden_layer_of_the_head_is_scaled_and_shifted_by_the_site(kind: type[FluxHead]) -> None:
    head, hidden = kind(8, width=5).double(), torch.randn(7, 2, 8, dtype=torch.float64)
    modulation = torch.randn(2, 10, dtype=torch.float64)
    found = head(hidden, SiteTerms(modulation=modulation))
    for site in range(2):
        scale, shift = modulation[site, :5] + 1, modulation[site, 5:]
        alone = kind(8, width=5).double()
        alone.load_state_dict(head.state_dict())
        assert alone.inner is not None
        alone.inner.weight.data *= scale[:, None]
        alone.inner.bias.data = alone.inner.bias.data * scale + shift
        torch.testing.assert_close(found[:, site], alone(hidden[:, site]))


@settings(deadline=None)
@drawn(size=st.floats(0.01, 1e3), seed=st.integers(0, 2**31))
def test_the_loss_to_the_air_is_what_is_breathed_out_and_not_taken_up(
    size: float, seed: int
) -> None:
    head = ExchangeHead(8, FluxScale(torch.ones(3), torch.tensor([3.0, 2.0, 1.5])))
    hidden = size * torch.randn(50, 8, generator=torch.Generator().manual_seed(seed))
    fluxes = head(hidden)
    gpp, reco, nee = fluxes.unbind(-1)
    assert torch.equal(nee, reco - gpp)
    assert not mass_residual(fluxes).any()
    assert (gpp >= 0).all()
    assert (reco >= 0).all()
    torch.testing.assert_close(mass_residual(torch.tensor([2.0, 1.0, -0.5])), torch.tensor(0.5))


def test_anomalies_of_either_sign_add_up_too() -> None:
    head = AnomalyHead(8, FluxScale(torch.zeros(3), torch.tensor([3.0, 2.0, 1.5])))
    gpp, reco, nee = head(torch.randn(50, 8, generator=torch.Generator().manual_seed(1))).unbind(-1)
    assert torch.equal(nee, reco - gpp)
    assert gpp.min() < 0 < gpp.max()


def test_four_heads_of_their_own_do_not_add_up() -> None:
    fluxes = torch.tensor([[2.0, 1.0, 0.3, 0.5]])
    torch.testing.assert_close(mass_residual(fluxes), torch.tensor([0.2]))


def test_eddy_covariance_sees_respiration_and_the_loss_to_the_air() -> None:
    found = ecosystem_exchange(torch.tensor([2.0, 1.0, 0.25, 0.75]))
    assert torch.equal(found, torch.tensor([2.0, 1.75, -0.25]))
    gpp, reco, nee = found.unbind(-1)
    assert nee == reco - gpp


def test_the_scale_travels_with_the_weights_and_is_what_is_heard() -> None:
    head = CarbonHead(8)
    head.load_state_dict(CarbonHead(8, SCALE).state_dict())
    assert not head.normalize(SCALE.mean).any()
    torch.testing.assert_close(head.normalize(SCALE.mean + SCALE.deviation), torch.ones(4))


@pytest.mark.parametrize("broken", [torch.ones(3), torch.zeros(4)])
def test_a_scale_that_is_none_is_refused(broken: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="means and positive deviations of GPP, NPP, NEP, Rh"):
        CarbonHead(8, FluxScale(torch.zeros(4), broken))


@pytest.mark.parametrize("choices", [{}, {"site_levels": True, "head_hidden": 5}])
def test_a_free_run_of_the_carbon_head_hears_its_own_fluxes(choices: dict[str, Any]) -> None:
    """A free run is a teacher-forced one whose teacher says what the model said."""
    made = model(outputs=4, head="carbon", autoregressive=True, **choices)
    assert isinstance(made.head, CarbonHead)
    made.head.set_scale(SCALE)
    given = inputs(outputs=4)
    free = made(*given)
    assert not mass_residual(free.outputs).any()
    forced = made(*given._replace(target=free.outputs), teacher_forcing=1.0)
    torch.testing.assert_close(forced.outputs, free.outputs, rtol=0, atol=1e-12)
