"""What crosses the border between processes: requests, replies and their checks."""
