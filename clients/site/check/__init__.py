"""The preflight of a site: each finding is ok, a warning or a fault, and says what to do."""
