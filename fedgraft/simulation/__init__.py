"""Runtimes that need no institution: in this process, and in Flower's own simulation."""
