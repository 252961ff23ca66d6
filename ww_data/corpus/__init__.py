"""A prepared corpus, opened: its segments of speech, banks of noise and of room responses."""
