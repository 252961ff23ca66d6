"""The streamer of `denoiser` 0.1.5 as a peer, in a process of its own, where nothing of ours has touched torch.

`Peer` starts this file as a program. It waits for a line with a number of seconds, computes for about so long,
answers with the CPU seconds of each step as JSON, and waits again: only one process computes at a time.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

SAMPLE_RATE, STEP_SAMPLES = 16_000, 256  # 16 ms at a time, a hop of its Demucs
WARM_STEPS, MIN_STEPS = 2, 3  # of each slice: left out, and measured at least


def timed(step: Callable[[], object]) -> float:
    """CPU seconds that this thread spends in a step."""
    start = time.thread_time()
    step()
    return time.thread_time() - start


def timed_steps(step: Callable[[], object], seconds: float) -> list[float]:
    """CPU seconds of each step of a slice, until they add up to `seconds`; the first find cold caches: not in."""
    for _ in range(WARM_STEPS):
        step()
    taken: list[float] = []
    while len(taken) < MIN_STEPS or sum(taken) < seconds:
        taken.append(timed(step))
    return taken


class Peer:
    """DemucsStreamer with `hidden` channels in a fresh process. `noisy_file`: .npy, (T,) float32 at 16 kHz."""

    def __init__(self, hidden: int, *, onednn: bool, noisy_file: Path, oracles: str | None) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), str(noisy_file), "--hidden", str(hidden)]
        command += [] if onednn else ["--without-onednn"]
        command += ["--oracles", oracles] if oracles else []
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            self.version = str(self._answer()["version"])
        except BaseException:
            self.close()
            raise

    def run(self, seconds: float) -> list[float]:
        """CPU seconds of each step of a slice."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return [float(taken) for taken in self._answer()["steps"]]

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process of denoiser ended; what it said is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("noisy", help=".npy file, (T,) float32 at 16 kHz")
    parser.add_argument("--hidden", type=int, default=48, help="channels of its Demucs; 48 unless given")
    parser.add_argument("--without-onednn", action="store_true", help="let torch compute without oneDNN")
    parser.add_argument("--oracles", metavar="DIR", help="where denoiser was installed, if not beside torch")
    arguments = parser.parse_args()
    if arguments.oracles:
        sys.path.append(arguments.oracles)
    import numpy as np
    import torch
    from denoiser.demucs import Demucs, DemucsStreamer  # these need nothing but torch: no stand-ins

    torch.set_num_threads(1)
    torch.manual_seed(0)
    noisy = torch.from_numpy(np.load(arguments.noisy))
    chunks = cycle([chunk[None] for chunk in noisy.split(STEP_SAMPLES) if len(chunk) == STEP_SAMPLES])
    if arguments.without_onednn:
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]  # a property that is not typed as one
    with torch.no_grad():
        streamer = DemucsStreamer(Demucs(hidden=arguments.hidden).eval())
        while not streamer.feed(next(chunks)).numel():
            pass  # until its window is full; from then on every step gives 16 ms
        print(json.dumps({"version": version("denoiser")}), flush=True)
        for line in sys.stdin:
            steps = timed_steps(lambda: streamer.feed(next(chunks)), float(line))
            print(json.dumps({"steps": steps}), flush=True)


if __name__ == "__main__":
    main()
