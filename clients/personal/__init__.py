"""Heads that stay with their clients: what trains, keeps and evaluates them.

- `heads`: each client's own head between rounds, in its host's client state;
- `training`: own heads of many clients train together, each from where it stands;
- `evaluation`: each client's own head on its own validation part, as batched products.
"""
