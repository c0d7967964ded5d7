"""Frozen work, done once: activations at the cut, computed and kept."""
