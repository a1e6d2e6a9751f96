"""What is served: building a version, swapping it in, looking keys up."""
