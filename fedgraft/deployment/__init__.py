"""What a server and its sites share before a run: settings, kits, certificates."""
