"""Features of unlike domains brought onto common ground before any head sees them, by moments that are sums."""
