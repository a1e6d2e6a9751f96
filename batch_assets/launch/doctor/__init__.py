"""What a machine and a project lack for their nights, and how that is mended."""
