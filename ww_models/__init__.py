"""What turns noisy speech into clean speech: architectures, losses, quality measures and a file format."""

from ww_models.architectures.demucs import Demucs, DemucsConfig
from ww_models.architectures.gatewave import GateWave, GateWaveConfig
from ww_models.architectures.waveunet import WaveUNet, WaveUNetConfig
from ww_models.bundle.bundle import load_bundle, save_bundle
from ww_models.bundle.facebook_denoiser import load_denoiser_checkpoint
from ww_models.bundle.info import BundleError, BundleInfo, read_bundle_info
from ww_models.denoiser import Denoiser, ModelConfig
from ww_models.enhancement import enhance
from ww_models.losses import DenoisingLoss, LossConfig, LossTerms
from ww_models.quality import Quality, score_clip, si_sdr_db, snr_db
from ww_models.registry import MODELS, PRESETS, build_model, model_config
from ww_models.streaming.streamer import StreamBatch, Streamer, stream

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
    "stream",
]
