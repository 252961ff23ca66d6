"""Serving bundles over HTTP and WebSocket with Ray Serve. Light to import: the processes that decode need no Ray."""
