"""What turns folders of sound into mixtures: manifest, shards, noise bank, mixing, plan."""

from ww_data.audio import AudioError, read_audio, read_mono, resample, write_audio
from ww_data.corpus import Corpus, Shard, SplitSummary, open_corpus
from ww_data.manifest import Clip, CorpusError, Manifest, scan_corpus
from ww_data.mixing import (
    MixingConfig,
    MixtureParams,
    Mixtures,
    draw_mixture,
    mix,
    mix_segments,
    mixture_rng,
)
from ww_data.noise_bank import NoiseBank
from ww_data.plan import Plan, PlanItems
from ww_data.segments import SegmentBlock, read_shard, segment_key
from ww_data.shards import write_shards

__all__ = [
    "AudioError",
    "Clip",
    "Corpus",
    "CorpusError",
    "Manifest",
    "MixingConfig",
    "MixtureParams",
    "Mixtures",
    "NoiseBank",
    "Plan",
    "PlanItems",
    "SegmentBlock",
    "Shard",
    "SplitSummary",
    "draw_mixture",
    "mix",
    "mix_segments",
    "mixture_rng",
    "open_corpus",
    "read_audio",
    "read_mono",
    "read_shard",
    "resample",
    "scan_corpus",
    "segment_key",
    "write_audio",
    "write_shards",
]
