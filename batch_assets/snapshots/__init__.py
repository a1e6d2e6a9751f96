"""What is served: versions, their building, their swap, their reading. No model."""
