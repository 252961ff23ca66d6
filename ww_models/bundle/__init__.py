"""A trained model as a folder: weights, config and model card."""
