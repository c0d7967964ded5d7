"""The server's processes and the runs submitted to them."""
