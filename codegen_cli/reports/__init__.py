"""What the commands show: completions, tables, heat maps, JSON objects."""
