"""What to run: scenario files and the model that composes every owner's settings."""
