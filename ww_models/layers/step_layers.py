"""What a streaming step is built from: layers that keep what they need of the past and compute each output once.

A step takes `hop_samples` new samples of each stream and returns as many finished ones. All tensors are (B, n, C):
the n rows are time, oldest first, and every convolution, transposed or not, and every resampling filter is one matrix
product over a window of rows.

Row k of a layer is row k of the same layer over the whole clip. A stream starts with `lead_samples` zeros, so that
the newest sample of a step is just the one that its newest inner frame waits for; the rows that this makes before
row 0 do not exist in the whole clip and are set to zero where a later layer would see them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Pace:
    """How many rows a layer gets in each step, and the index of the newest one after the first step."""

    rows: int
    newest: int

    def conv(self, kernel: int, stride: int) -> "Pace":
        """Of a convolution without padding. Its newest frame ends with the newest row."""
        frame, rest = divmod(self.newest + 1 - kernel, stride)
        assert rest == 0 == self.rows % stride, "the lead has to be chosen so that frames end with steps"
        return Pace(self.rows // stride, frame)

    def conv_transpose(self, stride: int) -> "Pace":
        """Of a transposed convolution: the rows that no later frame adds to."""
        return Pace(self.rows * stride, (self.newest + 1) * stride - 1)


class Memory:
    """What the layers of one step recall of the step before, and keep for the next, by name.

    Rows are (B, n, C); those of a layer with a single row in each step may be (B, C).
    """

    def __init__(self, past: Mapping[str, Tensor] | None = None) -> None:
        """past None: nothing was heard; each layer starts from its initial values."""
        self.past = past
        self.kept: dict[str, Tensor] = {}
        self.initial: dict[str, float] = {}

    def recall(self, name: str, like: Tensor, shape: tuple[int, ...], initial: float = 0.0) -> Tensor:
        """What was kept in the step before, (B, *shape)."""
        self.initial[name] = initial
        if self.past is None:
            return like.new_full((like.shape[0], *shape), initial)
        return self.past[name]

    def extend(self, name: str, x: Tensor, rows: int) -> Tensor:
        """x (B, n, C) with the `rows` rows before it: (B, rows + n, C); keeps the newest `rows`.

        A single row (B, C) -> (B, (rows + 1) * C).
        """
        if rows == 0:
            return x
        if x.dim() == 2:
            window = torch.cat([self.recall(name, x, (rows * int(x.shape[-1]),)), x], dim=1)
            self.kept[name] = window[:, int(x.shape[-1]) :]
            return window
        past = self.recall(name, x, (rows, x.shape[-1]))
        window = torch.cat([past, x], dim=1)
        self.kept[name] = window[:, -rows:]
        return window

    def delay(self, name: str, x: Tensor, rows: int) -> Tensor:
        """x (B, n, C) or (B, C), `rows` rows later."""
        if x.dim() == 2:
            for row in range(rows):
                self.kept[f"{name}.{row}"] = x
                x = self.recall(f"{name}.{row}", x, (int(x.shape[-1]),))
            return x
        if rows == int(x.shape[1]):
            self.kept[name] = x
            return self.recall(name, x, (rows, x.shape[-1]))
        return x if rows == 0 else self.extend(name, x, rows)[:, :-rows]


class StepConv(nn.Module):
    """A convolution as one matrix product over its cached window: weight (kernel, C_in, C_out), bias (C_out,) or None.

    `block` outputs are computed from one window with a block Toeplitz matrix: some more arithmetic, far less copying.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, name: str, weight: Tensor, bias: Tensor | None, *, stride: int = 1, block: int = 1
    ) -> None:
        super().__init__()
        kernel, in_channels, out_channels = weight.shape
        self.name, self.in_channels, self.out_channels = name, in_channels, out_channels
        self.stride, self.block = stride * block, block
        self.past_rows = -(-max(kernel - stride, 0) // self.stride) * self.stride
        self.num_parts = self.past_rows // self.stride + 1
        matrix = weight.new_zeros(self.past_rows + self.stride, in_channels, block, out_channels)
        for output in range(block):
            start = self.past_rows - (kernel - stride) + output * stride
            matrix[start : start + kernel, :, output] = weight
        matrix = matrix.reshape(-1, block * out_channels)
        self.register_buffer("weight", matrix.detach().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().repeat(block))

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(B, n, C_in) -> (B, n / stride, C_out)"""
        num_windows = int(x.shape[1]) // self.stride
        rows = memory.extend(self.name, x, self.past_rows)
        if self.num_parts > 1:
            # Windows are made of whole strides, which overlap: one copy brings them into place.
            if self.stride > 1:
                rows = rows.reshape(-1, num_windows + self.num_parts - 1, self.stride * self.in_channels)
            rows = rows[:, torch.arange(num_windows)[:, None] + torch.arange(self.num_parts)]
        windows = rows.reshape(-1, self.weight.shape[0])
        # Two dimensions and the sum in one call: a single operation of the runtime.
        y = windows @ self.weight if self.bias is None else torch.addmm(self.bias, windows, self.weight)
        return y.reshape(-1, num_windows * self.block, self.out_channels)


def conv_step(name: str, conv: nn.Conv1d, *, block: int = 1) -> StepConv:
    """The step of a convolution, whatever its padding: the caller sees to the first rows."""
    return StepConv(name, conv.weight.permute(2, 1, 0), conv.bias, stride=conv.stride[0], block=block)


class StepConvTranspose(nn.Module):
    """A transposed convolution: each frame of outputs is made of the last kernel / stride frames of inputs."""

    def __init__(self, name: str, conv: nn.ConvTranspose1d) -> None:
        super().__init__()
        (kernel,), (stride,) = conv.kernel_size, conv.stride
        in_channels, out_channels = conv.in_channels, conv.out_channels
        self.stride, self.out_channels = stride, out_channels
        # (C_in, C_out, kernel) -> (frames, C_in, stride * C_out), the oldest frame first: it gives the tail.
        weight = conv.weight.reshape(in_channels, out_channels, kernel // stride, stride)
        weight = weight.permute(2, 0, 3, 1).flip(0).reshape(kernel // stride, in_channels, -1)
        bias = None if conv.bias is None else conv.bias.repeat(stride)
        self.conv = StepConv(name, weight, bias)

    def forward(self, x: Tensor, memory: Memory) -> Tensor:
        """(B, n, C_in) -> (B, n * stride, C_out)"""
        y = self.conv(x, memory)
        return y.reshape(-1, int(x.shape[1]) * self.stride, self.out_channels)


def norm_as_affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """(scale (C,), shift (C,)) of a BatchNorm in eval mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias.detach() - scale * norm.running_mean


GRU_WEIGHTS = ("input", "state", "bias", "input_new", "bias_input_new", "state_new", "bias_state_new")


class StepRecurrent(nn.Module):
    """A GRU or LSTM of any number of layers, row by row."""

    def __init__(self, name: str, rnn: nn.GRU | nn.LSTM) -> None:
        super().__init__()
        self.name, self.size, self.is_lstm = name, rnn.hidden_size, isinstance(rnn, nn.LSTM)
        self.num_layers, self.retention = rnn.num_layers, getattr(rnn, "retention", 1.0)
        for layer, (weight_ih, weight_hh, bias_ih, bias_hh) in enumerate(rnn.all_weights):
            if self.is_lstm:
                # One product for both: the weights are read in one go.
                parts = {"weight": torch.cat([weight_ih, weight_hh], 1).t(), "bias": bias_ih + bias_hh}
            else:
                # Both gates and the new value apart: a gate is one sum of two products.
                both = 2 * self.size
                parts = {"input": weight_ih[:both].t(), "state": weight_hh[:both].t()}
                parts |= {"bias": bias_ih[:both] + bias_hh[:both]}
                parts |= {"input_new": weight_ih[both:].t(), "bias_input_new": bias_ih[both:]}
                parts |= {"state_new": weight_hh[both:].t(), "bias_state_new": bias_hh[both:]}
            for part, value in parts.items():
                self.register_buffer(f"{part}_{layer}", value.detach().clone())

    def forward(self, x: Tensor, started: Tensor | None, memory: Memory) -> Tensor:
        """(B, n, C) -> (B, n, C), or (B, C) -> (B, C) for a single row.

        started (B, n or 1, 1): 0 for rows that leave the state as it was, at 0. None: there are none.
        """
        run = self._lstm if self.is_lstm else self._gru
        num_rows = int(x.shape[1]) if x.dim() == 3 else 1
        is_on = (
            None
            if started is None
            else [started[:, min(row, int(started.shape[1]) - 1)] for row in range(num_rows)]
        )
        flat = x.reshape(-1, self.size) if x.dim() == 3 else x
        for layer in range(self.num_layers):
            outputs = run(layer, flat, num_rows, is_on, memory)
            # Cutting and joining a single row would take longer than its arithmetic.
            flat = outputs[0] if num_rows == 1 else torch.stack(outputs, dim=1).reshape(-1, self.size)
        return flat.reshape(-1, num_rows, self.size) if x.dim() == 3 else flat

    def _gru(
        self, layer: int, flat: Tensor, num_rows: int, is_on: list[Tensor] | None, memory: Memory
    ) -> list[Tensor]:
        """(B * n, C) -> n times (B, C)"""
        name, size = f"{self.name}.{layer}", self.size
        weights = {name: getattr(self, f"{name}_{layer}") for name in GRU_WEIGHTS}
        # Of all rows at once, so that the weights are read once.
        gates = _rows(torch.addmm(weights["bias"], flat, weights["input"]), num_rows)
        news = _rows(torch.addmm(weights["bias_input_new"], flat, weights["input_new"]), num_rows)
        state = memory.recall(name, news[0], (size,))
        outputs = []
        for row, (gate, new) in enumerate(zip(gates, news, strict=True)):
            r, z = torch.addmm(gate, state, weights["state"]).sigmoid().split(size, dim=-1)
            n = (new + r * torch.addmm(weights["bias_state_new"], state, weights["state_new"])).tanh()
            state = n + z * (state - n)
            state = state if self.retention == 1 else self.retention * state
            state = state if is_on is None else state * is_on[row]
            outputs.append(state)
        memory.kept[name] = state
        return outputs

    def _lstm(
        self, layer: int, flat: Tensor, num_rows: int, is_on: list[Tensor] | None, memory: Memory
    ) -> list[Tensor]:
        """(B * n, C) -> n times (B, C)"""
        name = f"{self.name}.{layer}"
        weight, bias = self.get_buffer(f"weight_{layer}"), self.get_buffer(f"bias_{layer}")
        inputs, outputs = _rows(flat, num_rows), []
        state = memory.recall(f"{name}.state", inputs[0], (self.size,))
        cell = memory.recall(f"{name}.cell", inputs[0], (self.size,))
        for row, x in enumerate(inputs):
            gates = torch.addmm(bias, torch.cat([x, state], dim=-1), weight)
            i, f, g, o = gates.split(self.size, dim=-1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            cell = cell if is_on is None else cell * is_on[row]
            state = o.sigmoid() * cell.tanh()
            outputs.append(state)
        memory.kept[f"{name}.state"] = state
        memory.kept[f"{name}.cell"] = cell
        return outputs


def _rows(flat: Tensor, num_rows: int) -> Sequence[Tensor]:
    """(B * n, C) -> n times (B, C)"""
    return [flat] if num_rows == 1 else flat.reshape(-1, num_rows, flat.shape[-1]).unbind(1)
