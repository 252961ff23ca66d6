"""The report's page: its figures, sounds and points, and the template that shows them."""
