"""Advice: what a finished run's own validation says about the known failures of transfer and federated learning."""
