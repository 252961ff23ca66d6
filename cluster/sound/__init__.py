"""Recorded and live sound on its way through a model: what calls, files and the command line do alike."""
