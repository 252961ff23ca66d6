"""The sound of a live call, without its connection: bytes to samples for the model, the model's samples to bytes.

    sound = CallSound(options, model_rate, latency_samples)     # of the model
    for_model = sound.feed(data)                                # (C, n) at the model's rate
    data = sound.finish(from_model)                             # what the model has made of them by then
    for_model = sound.end()                                     # the last the model gets: its rest comes out after it

Sample k out is sample k in, denoised: the model gets it without its offset, and the input waits beside the model and
is mixed in by index. No threads, no sockets, no clock; for one thread at a time.
"""

from __future__ import annotations

import numpy as np

from cluster.serving.live.protocol import CallOptions, Update, decode_samples, encode_samples
from cluster.sound.bands import back_to
from cluster.sound.offset import OffsetRemover
from cluster.sound.resampling import SampleQueue, Samples, StreamResampler

RAMP_S = 0.02


class CallSound:
    """Streams with the same settings, one after the other (`end`, `restart`).

    num_in, num_out: samples per channel of the present stream, at the caller's rate.
    fed, finished: the same at the model's rate, what the model was given and what it has returned.
    num_clipped: samples that left the range of 16 bits, of all streams.
    """

    def __init__(self, options: CallOptions, model_rate: int, latency_samples: int) -> None:
        self.options, self.model_rate = options, model_rate
        self.strength, self.bypass = options.strength, False
        self.num_clipped = 0
        self._model_latency = latency_samples
        self._offset = OffsetRemover(options.sample_rate, options.num_channels)
        self._down = StreamResampler(options.sample_rate, model_rate, options.num_channels)
        self._up = back_to(options.band, options.sample_rate, model_rate, options.num_channels)
        self._mix = _Mix(options.strength, round(RAMP_S * options.sample_rate))
        self.restart()

    def restart(self) -> None:
        """Begins a new stream; strength and bypass stay."""
        self.num_in = self.num_out = self.fed = self.finished = 0
        self._num_wanted: int | None = None  # of the model's samples; known once the stream has ended
        self._dry = SampleQueue(self.options.num_channels)
        self._offset.restart()
        self._up.restart()

    @property
    def behind_samples(self) -> int:
        """How much sound the model still has to work on, beyond what it always keeps; at the model's rate."""
        return max(0, self.fed - self.finished - self._model_latency)

    @property
    def is_over(self) -> bool:
        """Whether the stream has ended and all its samples are out."""
        return self.finished == self._num_wanted

    def latency_samples(self) -> int:
        """After n samples in, at least n - latency_samples are out: the model's look-ahead and the resampling's."""
        # Far enough in for the beginning to be over, and one period of both resamplers.
        num_in = np.arange(self.options.sample_rate) + 4 * self.options.sample_rate
        from_model = self._down.num_finished_inside(num_in) - self._model_latency
        return int((num_in - self._up.resampler.num_finished_inside(from_model)).max())

    def update(self, update: Update) -> None:
        """Changes strength or bypass, from the next sample out, over a ramp of 20 ms."""
        self.strength = self.strength if update.strength is None else update.strength
        self.bypass = self.bypass if update.bypass is None else update.bypass
        self._mix.aim(0.0 if self.bypass else self.strength)

    def feed(self, data: bytes) -> Samples:
        """Interleaved PCM -> what the model is to be given, (C, n), n may be 0. ProtocolError bad_audio."""
        samples_Cn = decode_samples(data, self.options)
        self.num_in += samples_Cn.shape[-1]
        self._dry.push(samples_Cn)
        dry_Cn = self._offset.feed(samples_Cn)
        return self._for_model(dry_Cn, self._down.feed(dry_Cn))

    def end(self) -> Samples:
        """The end of the stream -> what the model is to be given, (C, n), so that all the rest comes out of it."""
        rest = self._down.flush()
        self._num_wanted = self.fed + rest.shape[-1]
        rest = self._for_model(rest[:, :0], rest)
        if not self._num_wanted:
            return rest
        self.fed += self._model_latency
        silence = np.zeros((self.options.num_channels, self._model_latency), np.float32)
        return np.concatenate([rest, silence], axis=-1)

    def finish(self, clean_Cn: Samples) -> bytes:
        """The model's next samples (C, n) -> interleaved PCM that is ready to be sent; after `end` until all is."""
        if self._num_wanted is not None:  # what the model makes of the silence is not wanted
            clean_Cn = clean_Cn[:, : self._num_wanted - self.finished]
        self.finished += clean_Cn.shape[-1]
        wet_Cn = self._up.feed(clean_Cn)
        if self.is_over:
            # Rounding up there and back can leave a sample too many.
            wet_Cn = np.concatenate([wet_Cn, self._up.flush()], axis=-1)[:, : self.num_in - self.num_out]
        self.num_out += wet_Cn.shape[-1]
        mixed_Cn = self._mix.apply(self._dry.pop(wet_Cn.shape[-1]), wet_Cn)
        data, num_clipped = encode_samples(mixed_Cn, self.options.encoding)
        self.num_clipped += num_clipped
        return data

    def _for_model(self, dry_Cn: Samples, samples_Cn: Samples) -> Samples:
        """dry_Cn: at the caller's rate; samples_Cn: what has become of it, and of what came before, by now."""
        self.fed += samples_Cn.shape[-1]
        self._up.hear(dry_Cn, samples_Cn)
        return samples_Cn


class _Mix:
    """gain * wet + (1 - gain) * dry, with a gain that goes to a new value in a straight line."""

    def __init__(self, gain: float, ramp_samples: int) -> None:
        self._gain = self._target = np.float32(gain)
        self._ramp_samples = ramp_samples
        self._ramp: Samples = np.zeros(0, np.float32)  # the gains that are still to come

    def aim(self, gain: float) -> None:
        if gain != self._target:
            self._target = np.float32(gain)
            self._ramp = np.linspace(self._gain, gain, self._ramp_samples + 1, dtype=np.float32)[1:]

    def apply(self, dry_Cn: Samples, wet_Cn: Samples) -> Samples:
        """Both (C, n), sample beside sample -> (C, n). A gain of 0 or 1 gives one of them bit for bit."""
        num_samples = wet_Cn.shape[-1]
        if len(self._ramp) and num_samples:
            now, self._ramp = self._ramp[:num_samples], self._ramp[num_samples:]
            gain = np.full(num_samples, self._target, np.float32)
            gain[: len(now)] = now
            self._gain = gain[-1]
            return gain * wet_Cn + (1 - gain) * dry_Cn
        if self._gain == 1:
            return wet_Cn
        if self._gain == 0:
            return dry_Cn
        return self._gain * wet_Cn + (1 - self._gain) * dry_Cn
