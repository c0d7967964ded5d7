"""Sweeps: many runs of one scenario, planned, forecast, and conducted."""
