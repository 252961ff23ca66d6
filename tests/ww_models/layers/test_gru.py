"""The GRU against torch's own: values and gradients."""

import pytest
import torch

from ww_models.layers.gru import GRU, retention_of


@pytest.mark.parametrize(("num_steps", "batch"), [(1, 1), (1, 3), (20, 1), (33, 3)])
def test_gru_has_the_numbers_and_gradients_of_torch(num_steps: int, batch: int) -> None:
    ours, theirs = GRU(6, 6, 2).double(), torch.nn.GRU(6, 6, 2).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(num_steps, batch, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(num_steps, batch, 6, dtype=torch.float64)
    results = []
    for gru in (ours.train(), theirs.train()):
        y, last = gru(x)
        total = (y * weight).sum() + last.square().sum()
        results.append([y, last, *torch.autograd.grad(total, [x, *gru.parameters()])])
    torch.testing.assert_close(results[0], results[1])
    assert "GRULayer" in str(ours(x)[0].grad_fn)
    torch.testing.assert_close(ours.eval()(x), theirs(x))


def by_its_formula(gru: GRU, x: torch.Tensor) -> torch.Tensor:
    for weight_ih, weight_hh, bias_ih, bias_hh in gru.all_weights:
        state, outputs = x.new_zeros(x.shape[1], gru.hidden_size), []
        for row in x:
            input_rz, input_n = (row @ weight_ih.t() + bias_ih).split([12, 6], dim=-1)
            state_rz, state_n = (state @ weight_hh.t() + bias_hh).split([12, 6], dim=-1)
            r, z = (input_rz + state_rz).sigmoid().chunk(2, dim=-1)
            new = (input_n + r * state_n).tanh()
            state = gru.retention * ((1 - z) * new + z * state)
            outputs.append(state)
        x = torch.stack(outputs)
    return x


@pytest.mark.parametrize("is_training", [True, False])
def test_a_gru_that_forgets_has_the_numbers_and_gradients_of_its_formula(is_training: bool) -> None:
    gru = GRU(6, 6, 2, retention=0.9).double().train(is_training)
    x = torch.randn(20, 3, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(20, 3, 6, dtype=torch.float64)
    results = []
    for y in (gru(x)[0], by_its_formula(gru, x)):
        results.append([y, *torch.autograd.grad((y * weight).sum(), [x, *gru.parameters()])])
    torch.testing.assert_close(results[0], results[1])


def test_what_its_gate_would_keep_for_ever_fades() -> None:
    """z is 1 for all that it may learn: the state stands still, or falls by its share with each step."""
    for retention in (1.0, retention_of(0.5, 0.1)):
        gru = GRU(6, 6, retention=retention).double().eval()
        with torch.no_grad():
            for parameter in gru.parameters():
                parameter.zero_()
            gru.bias_ih_l0[6:12] = 1000.0
            gru.bias_ih_l0[12:] = 1.0
            gru.weight_ih_l0[6:12] = -2000.0  # but at the first step
        x = torch.zeros(51, 1, 6, dtype=torch.float64)
        x[0] = 1.0
        first, *_, last = gru(x)[0]
        torch.testing.assert_close(last, first * retention**50)
    assert retention_of(0.5, 0.1) ** 5 == pytest.approx(1 / 2.718281828)
    assert retention_of(0.0, 0.1) == 1.0


def test_it_forgets_both_ways() -> None:
    one, both = GRU(6, 6, 1, retention=0.8), GRU(6, 6, 1, retention=0.8, bidirectional=True)
    both.load_state_dict({**one.state_dict(), **{f"{k}_reverse": v for k, v in one.state_dict().items()}})
    x = torch.randn(9, 2, 6)
    forth, back = one(x)[0], one(x.flip(0))[0].flip(0)
    torch.testing.assert_close(both(x)[0], torch.cat([forth, back], dim=-1))
