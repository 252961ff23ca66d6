"""A GRU that forgets, and whose training step on a CPU takes about 60 % of the time of torch's own.

    r, z = sigmoid(input_rz + recurrent_rz)    n = tanh(input_n + r * recurrent_n)    h' = retention (n + z * (h - n))

At retention 1 it is nn.GRU, number for number. But where z comes near 1, that gathers for minutes what a crop of some
seconds never showed to it; at less, what lies back longer than 1 / (1 - retention) steps fades, whatever z is.

torch's native GRU adds up the gradient of the recurrent weights at every time step. Here the loop over time keeps
only what depends on the step before; the weights' gradient is one matrix product over all steps.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def retention_of(memory_s: float, step_s: float) -> float:
    """The share of a state that is left after a step, if it falls to 1/e in memory_s; 1 for 0, which is no limit."""
    return math.exp(-step_s / memory_s) if memory_s else 1.0


class GRU(nn.GRU):
    """nn.GRU (time first), with a quicker training step on the CPU, and less than all of its state kept if asked."""

    def __init__(self, *args: Any, retention: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.retention = retention

    def forward(self, x: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(T, B, C) -> (T, B, C) and the last states (layers * directions, B, C)."""
        is_plain = hx is None and not (self.bidirectional or self.dropout)
        is_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if self.retention == 1 and not (self.training and is_plain and is_cpu):
            return super().forward(x, hx)
        if hx is not None or self.dropout:
            raise ValueError("a GRU that forgets starts at state 0, without dropout")
        with torch.autocast(x.device.type, enabled=False):
            return self._forward(x.to(self.all_weights[0][0].dtype))

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        directions, last = 1 + self.bidirectional, []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                weight_ih, weight_hh, bias_ih, bias_hh = self.all_weights[layer * directions + direction]
                inputs = F.linear(x.flip(0) if direction else x, weight_ih, bias_ih)
                y = _GRULayer.apply(inputs, weight_hh, bias_hh, self.retention)
                last.append(y[-1])
                outputs.append(y.flip(0) if direction else y)
            x = outputs[0] if directions == 1 else torch.cat(outputs, dim=-1)
        return x, torch.stack(last)


class _GRULayer(torch.autograd.Function):
    """The recurrent half of a layer, from the inputs' share (T, B, 3C) of r, z and n, starting at state 0."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, retention: float) -> Tensor:
        num_steps, batch, size = inputs.shape[0], inputs.shape[1], inputs.shape[2] // 3
        states = inputs.new_zeros(num_steps + 1, batch, size)
        gates = inputs.new_empty(num_steps, batch, 2 * size)
        candidates = inputs.new_empty(num_steps, batch, size)
        recurrent = inputs.new_empty(num_steps, batch, 3 * size)
        # Laid out anew, which takes less time than two steps save.
        weight_T = weight.t().contiguous()
        # Views of all steps at once: cutting them in the loop would cost as much as the arithmetic.
        inputs_rz, inputs_n = inputs.split([2 * size, size], dim=-1)
        shares = recurrent, *recurrent.split([2 * size, size], dim=-1)
        views = (
            inputs_rz,
            inputs_n,
            *shares,
            gates,
            *gates.chunk(2, dim=-1),
            candidates,
            states[:-1],
            states[1:],
        )
        steps = zip(*(view.unbind() for view in views), strict=True)
        for input_rz, input_n, share, share_rz, share_n, gate, r, z, n, before, after in steps:
            torch.addmm(bias, before, weight_T, out=share)
            torch.add(input_rz, share_rz, out=gate).sigmoid_()
            torch.addcmul(input_n, r, share_n, out=n).tanh_()
            torch.lerp(n, before, z, out=after)
            if retention != 1:
                after.mul_(retention)
        ctx.retention = retention
        ctx.save_for_backward(weight, states, gates, candidates, recurrent[..., 2 * size :])
        return states[1:].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        # Of the state before it is scaled, so all that comes back to it is scaled.
        retention = ctx.retention
        grad_output = grad_output if retention == 1 else grad_output * retention
        weight, states, gates, n, share_n = ctx.saved_tensors
        num_steps, batch, size = n.shape
        r, z = gates[..., :size], gates[..., size:]
        # What a step's gradient of its state is multiplied by to give those of its shares of r, z and n.
        tanh_slope = torch.addcmul(n.new_ones(()), n, n, value=-1)
        n_slope = torch.addcmul(tanh_slope, tanh_slope, z, value=-1)
        slopes = n.new_empty(num_steps, batch, 3, size)
        torch.mul(torch.addcmul(r, r, r, value=-1).mul_(share_n), n_slope, out=slopes[:, :, 0])
        torch.mul(torch.addcmul(z, z, z, value=-1), states[:-1] - n, out=slopes[:, :, 1])
        torch.mul(n_slope, r, out=slopes[:, :, 2])
        grad_shares, grad_states = torch.empty_like(slopes), torch.empty_like(n)
        carried = torch.zeros_like(states[0])
        views = grad_output, slopes, z, grad_states, grad_shares, grad_shares.flatten(2)
        steps = list(zip(*(view.unbind() for view in views), strict=True))
        for grad_after, slope, keep, grad_state, grad_share, grad_share_flat in reversed(steps):
            torch.add(carried, grad_after, out=grad_state)
            torch.mul(slope, grad_state[:, None], out=grad_share)
            carried = torch.addmm(grad_state * keep, grad_share_flat, weight, beta=retention, alpha=retention)
        grad_inputs = torch.cat([grad_shares[:, :, :2].flatten(2), grad_states * n_slope], dim=-1)
        flat = grad_shares.view(num_steps * batch, 3 * size)
        return grad_inputs, flat.t() @ states[:-1].flatten(0, 1), flat.sum(0), None


class RecurrentMiddle(nn.Module):
    """GRU over time in the middle of a U: (B, C, T) -> (B, C, T); a bidirectional one is folded back to C."""

    def __init__(self, channels: int, num_layers: int, bidirectional: bool) -> None:
        super().__init__()
        self.gru = GRU(channels, channels, num_layers, bidirectional=bidirectional)
        self.linear = nn.Linear(2 * channels, channels) if bidirectional else None

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.gru(x.permute(2, 0, 1))
        y = y if self.linear is None else self.linear(y)
        return y.permute(1, 2, 0)
