"""Files of settings: YAML with lines, models with shapes, faults with both."""
