"""Parameters: typed sections, profiles in YAML, the project's folder and its secrets."""
