"""Comparisons: what was planned, what came out of it, and what the numbers let one say."""
