"""From what a training script has, a model and a frame, to a release."""
