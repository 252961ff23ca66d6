"""Scores of models on stored mixtures, and the report."""
