"""Writing a corpus: parts of speech, noise and rooms, and the stored mixtures."""
