"""What the architectures are built from, over whole clips and as steps of a stream."""
