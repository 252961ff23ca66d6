"""Denoising while the sound comes in: streams, and the engines that run their steps."""
