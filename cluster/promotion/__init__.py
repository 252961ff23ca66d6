"""Which model is in force, why, and since when."""
