"""Where samples come from, and which client owns which."""
