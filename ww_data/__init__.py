"""What turns folders of sound into mixtures: manifest, shards, noise bank, mixing, plan."""

from ww_data.audio import AudioError, read_audio, read_mono, resample, write_audio
from ww_data.audio_files import Grouping
from ww_data.augment import AugmentConfig
from ww_data.corpora import LAYOUTS
from ww_data.corpus import Corpus, Shard, SplitSummary, open_corpus
from ww_data.draws import MixingConfig, MixtureParams, draw_mixture, mixture_rng
from ww_data.manifest import Clip, CorpusError, Manifest
from ww_data.mixing import Mixtures, mix, mix_segments
from ww_data.noise_bank import NoiseBank
from ww_data.plan import Plan, PlanItems
from ww_data.rooms import RoomBank
from ww_data.scan import scan_corpus
from ww_data.segments import SegmentBlock, read_shard, segment_key
from ww_data.shards import write_shards
from ww_data.storage import Storage

__all__ = [
    "LAYOUTS",
    "AudioError",
    "AugmentConfig",
    "Clip",
    "Corpus",
    "CorpusError",
    "Grouping",
    "Manifest",
    "MixingConfig",
    "MixtureParams",
    "Mixtures",
    "NoiseBank",
    "Plan",
    "PlanItems",
    "RoomBank",
    "SegmentBlock",
    "Shard",
    "SplitSummary",
    "Storage",
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
