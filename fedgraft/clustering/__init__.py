"""Clusters of samples without labels, for the user: conducted, measured, written."""
