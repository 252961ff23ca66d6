"""Where in a file the sound lies, walked through before anything is decoded: one module for each way of writing it."""
