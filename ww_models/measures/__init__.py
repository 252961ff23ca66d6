"""Measures of quality beyond those of validation: spectra, composites, DNSMOS, words; and all of a clip at once."""
