"""The GRU against torch's own: values and gradients."""

import pytest
import torch

from ww_models.layers.gru import GRU


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
