"""What clients keep from round to round, in the memory of their host and in files beside the server's checkpoints.

- `tables`: named arrays of all clients of a host, without an object a client;
- `files`: one file a shard and version, whole or not at all;
- `versions`: which version a shard's state is, and what the server asks for.
"""
