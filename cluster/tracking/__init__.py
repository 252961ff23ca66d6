"""Curves, sounds and pictures of a run: TensorBoard, metrics.jsonl, ClearML."""
