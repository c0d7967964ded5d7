"""How updates combine: one file a strategy, each a pure value."""
