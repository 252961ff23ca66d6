"""Sweeps: many training runs, of which the best settings come."""
