"""All settings of a run, their defaults and checks; the presets."""
