"""Made-up voices and noises for the demo and the tests."""
