"""Where rows come from. Each source is its own YAML type."""
