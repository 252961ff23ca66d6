"""What turns folders of sound into mixtures: manifest, shards, noise bank, mixing, plan."""

from ww_data.audio import AudioError, read_audio, read_mono, resample, write_audio
from ww_data.corpus.banks import NoiseBank
from ww_data.corpus.corpus import Corpus, open_corpus
from ww_data.corpus.rooms import RoomBank
from ww_data.corpus.segments import SegmentBlock, read_shard, segment_key
from ww_data.corpus.stored_mixtures import StoredMixtures
from ww_data.manifest import Clip, CorpusError, Manifest
from ww_data.mixing.augment import AugmentConfig
from ww_data.mixing.draw import MixingConfig, MixtureDraw
from ww_data.mixing.mix import Mixtures, mix_segments
from ww_data.mixing.plan import Plan
from ww_data.scan.corpora import LAYOUTS
from ww_data.scan.files import Grouping
from ww_data.scan.scan import scan_corpus
from ww_data.storage import Storage
from ww_data.write.corpus import write_corpus
from ww_data.write.prepare import Prepared, prepare_corpus

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
    "MixtureDraw",
    "Mixtures",
    "NoiseBank",
    "Plan",
    "Prepared",
    "RoomBank",
    "SegmentBlock",
    "Storage",
    "StoredMixtures",
    "mix_segments",
    "open_corpus",
    "prepare_corpus",
    "read_audio",
    "read_mono",
    "read_shard",
    "resample",
    "scan_corpus",
    "segment_key",
    "write_audio",
    "write_corpus",
]
