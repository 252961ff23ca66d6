"""The HTTP side of the endpoint: its addresses, errors, page and log."""
