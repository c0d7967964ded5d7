"""The commands of the command line, a file for each group; heavy imports are inside them."""
