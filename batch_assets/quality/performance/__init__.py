"""Whether predictions were right: judged by outcomes, and estimated until they arrive."""
