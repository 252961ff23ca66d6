"""What turns folders of sound into mixtures: manifest, shards, noise bank, mixing, plan."""

from ww_data.audio import AudioError, read_audio, read_mono, resample, write_audio
from ww_data.corpus.corpus import Corpus, Shard, SplitSummary, open_corpus
from ww_data.corpus.noise_bank import NoiseBank
from ww_data.corpus.rooms import RoomBank
from ww_data.corpus.segments import SegmentBlock, read_shard, segment_key
from ww_data.manifest import Clip, CorpusError, Manifest
from ww_data.mixing.augment import AugmentConfig
from ww_data.mixing.draw import MixingConfig, MixtureParams, draw_mixture, mixture_rng
from ww_data.mixing.mix import Mixtures, mix, mix_segments
from ww_data.mixing.plan import Plan, PlanItems
from ww_data.scan.corpora import LAYOUTS
from ww_data.scan.files import Grouping
from ww_data.scan.scan import scan_corpus
from ww_data.storage import Storage
from ww_data.write.corpus import write_shards

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
