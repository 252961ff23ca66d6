"""What a training run is fed: mixtures through Ray Data, stored mixtures for validation."""
