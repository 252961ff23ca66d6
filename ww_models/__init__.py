"""What turns noisy speech into clean speech: architectures, losses, quality measures and a file format."""

from .bundle import BundleError, BundleInfo, load_bundle, read_bundle_info, save_bundle
from .demucs import Demucs, DemucsConfig
from .denoiser import Denoiser, ModelConfig
from .denoiser_checkpoint import load_denoiser_checkpoint
from .enhancement import enhance
from .gatewave import GateWave, GateWaveConfig
from .losses import DenoisingLoss, LossConfig, LossTerms
from .quality import Quality, score_clip, si_sdr_db, snr_db
from .registry import MODELS, PRESETS, build_model, model_config
from .streaming import StreamBatch, Streamer
from .waveunet import WaveUNet, WaveUNetConfig

__all__ = [
    "MODELS",
    "PRESETS",
    "BundleError",
    "BundleInfo",
    "Demucs",
    "DemucsConfig",
    "Denoiser",
    "DenoisingLoss",
    "GateWave",
    "GateWaveConfig",
    "LossConfig",
    "LossTerms",
    "ModelConfig",
    "Quality",
    "StreamBatch",
    "Streamer",
    "WaveUNet",
    "WaveUNetConfig",
    "build_model",
    "enhance",
    "load_bundle",
    "load_denoiser_checkpoint",
    "model_config",
    "read_bundle_info",
    "save_bundle",
    "score_clip",
    "si_sdr_db",
    "snr_db",
]
