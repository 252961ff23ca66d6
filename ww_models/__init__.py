"""What turns noisy speech into clean speech: architectures, losses, quality measures and a file format."""

# ruff: noqa: F401 -- what is imported here is the public face of the package

import os

# ONNX Runtime would tell its maker of each session, and leave a file in the temporary folder. It looks when imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from ww_models.architectures.bandmask import BandMask, BandMaskConfig
from ww_models.architectures.demucs import Demucs, DemucsConfig
from ww_models.architectures.gatewave import GateWave, GateWaveConfig
from ww_models.architectures.waveunet import WaveUNet, WaveUNetConfig
from ww_models.bundle.bundle import load_bundle, save_bundle
from ww_models.bundle.facebook_denoiser import load_denoiser_checkpoint
from ww_models.bundle.info import BundleError, BundleInfo, read_bundle_info
from ww_models.denoiser import Denoiser, ModelConfig
from ww_models.enhancement import enhance
from ww_models.losses import DenoisingLoss, LossConfig, LossTerms
from ww_models.pretrained import PRETRAINED, load_pretrained, pretrained_note
from ww_models.quality import Quality, score_clip, si_sdr_db, snr_db
from ww_models.registry import MODELS, PRESETS, build_model, model_config
from ww_models.streaming.streamer import StreamBatch, Streamer, stream
