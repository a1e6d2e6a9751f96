"""What lies on disk: sources, parts, tables and their books. It knows no model."""
