"""The Flower ServerApp: rounds, evaluation, checkpoints, results."""
