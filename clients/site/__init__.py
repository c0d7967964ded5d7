"""A site: the process that holds its data, and those beside it that speak with the server."""
