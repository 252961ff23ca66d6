"""What runs streaming steps: engines that do the arithmetic, here in torch, and lanes that hold each stream's state."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ww_models.checks import require
from ww_models.denoiser import Denoiser
from ww_models.layers.step import StreamingStep

Samples = NDArray[np.float32]
State = dict[str, Samples]
# The numbers that every engine has.
SIZES = ("sample_rate", "hop_samples", "lead_samples", "lag_samples", "latency_samples")


class StepEngine(Protocol):
    """What runs a streaming step: see `StreamingStep` for hop, lead and lag."""

    sample_rate: int
    hop_samples: int
    lead_samples: int
    lag_samples: int
    latency_samples: int

    def initial_state(self, batch: int) -> State:
        """The state of streams that have heard nothing, batch first."""

    def bind(self, chunk: Samples, state: State, output: Samples, next_state: State) -> Callable[[], None]:
        """A function that reads chunk (B, hop) and state and writes output (B, hop) and next_state.

        Each call reads and writes these very arrays, which are contiguous.
        """


class TorchEngine:
    """The step of a model in torch: the reference that every other engine is checked against."""

    def __init__(self, model: Denoiser, num_hops: int = 1) -> None:
        self.step = step_of(model, num_hops)
        self.sample_rate, self.hop_samples = model.sample_rate, self.step.hop_samples
        self.lead_samples, self.lag_samples = self.step.lead_samples, self.step.lag_samples
        self.latency_samples = (model.latency_samples or 0) + (num_hops - 1) * model.hop_samples

    def initial_state(self, batch: int) -> State:
        return {name: value.numpy() for name, value in self.step.initial_state(batch).items()}

    def bind(self, chunk: Samples, state: State, output: Samples, next_state: State) -> Callable[[], None]:
        chunk_tensor = torch.from_numpy(chunk)
        state_tensors = {name: torch.from_numpy(value) for name, value in state.items()}
        output_tensor = torch.from_numpy(output)
        next_tensors = {name: torch.from_numpy(value) for name, value in next_state.items()}

        def run() -> None:
            with torch.inference_mode():
                result, kept = self.step(chunk_tensor, state_tensors)
                output_tensor.copy_(result)
                for name, value in kept.items():
                    next_tensors[name].copy_(value)

        return run


def engine_of(source: Denoiser | StepEngine) -> StepEngine:
    """The engine itself, or that of a model in torch. ValueError if the model has no streaming step."""
    return TorchEngine(source) if isinstance(source, Denoiser) else source


def step_of(model: Denoiser, num_hops: int = 1) -> StreamingStep:
    """The streaming step of a model, in float32 on the CPU. ValueError if the model has none."""
    require_steps(model)
    return model.streaming_step(num_hops).float().cpu().eval()


def require_steps(model: Denoiser) -> None:
    """Raises ValueError unless the model has a streaming step."""
    require(
        model.latency_samples is not None,
        f"this {model.name} has no streaming step (causal={model.config.causal}, "
        f"normalize={model.config.normalize!r}): take a model with causal=True and normalize='running' or 'none', "
        "or stream it in windows (ww_models.stream)",
    )


class Lanes:
    """The states of up to `size` streams, one a row, and what steps them: all rows in use, or some of them.

    `chunk` (size, hop) is what the next step reads, row by row of those that it steps.
    """

    def __init__(self, engine: StepEngine, size: int) -> None:
        self.engine, self.num_rows = engine, 0
        self.chunk = np.zeros((size, engine.hop_samples), np.float32)
        self._output = np.zeros_like(self.chunk)
        self._fresh = engine.initial_state(1)
        # A step reads one set and writes the other; a third holds the rows of a step that not all take part in.
        self._sets: list[State] = [
            {name: np.repeat(value, size, axis=0) for name, value in self._fresh.items()} for _ in range(3)
        ]
        self._now, self._next, self._some = 0, 1, 2
        self._bound: dict[tuple[int, int, int], Callable[[], None]] = {}

    def add(self) -> int:
        """A row for a new stream."""
        row = self.num_rows
        self.num_rows += 1
        self.reset(row)
        return row

    def remove(self, row: int) -> int:
        """Frees a row; the last row moves there. Returns the number that this row had."""
        self.num_rows -= 1
        for values in self._sets[self._now].values():
            values[row] = values[self.num_rows]
        return self.num_rows

    def reset(self, row: int) -> None:
        for name, values in self._sets[self._now].items():
            values[row] = self._fresh[name][0]

    def step(self, rows: list[int]) -> Samples:
        """Advances `rows` by chunk[:len(rows)]: (len(rows), hop), valid until the next step."""
        count = len(rows)
        if count == self.num_rows and rows == list(range(count)):
            self._run(self._now, self._next, count)
            self._now, self._next = self._next, self._now
            return self._output[:count]
        now, some = self._sets[self._now], self._sets[self._some]
        for name, values in now.items():
            np.take(values, rows, axis=0, out=some[name][:count], mode="clip")
        self._run(self._some, self._next, count)
        for name, values in self._sets[self._next].items():
            now[name][rows] = values[:count]
        return self._output[:count]

    def _run(self, source: int, target: int, count: int) -> None:
        key = (source, target, count)
        if key not in self._bound:
            read, write = (
                {name: values[:count] for name, values in states.items()}
                for states in (self._sets[source], self._sets[target])
            )
            self._bound[key] = self.engine.bind(self.chunk[:count], read, self._output[:count], write)
        self._bound[key]()
