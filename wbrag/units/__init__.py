"""From kept evidence to units worth keeping: by subject, faithful to their sources, kept only where they help."""
