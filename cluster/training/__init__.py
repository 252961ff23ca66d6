"""A training run on N workers: the driver's part and a worker's part."""
