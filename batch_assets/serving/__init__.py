"""What is served: building a version, swapping it in, looking keys up."""

from batch_assets.serving.snapshot import Snapshot

__all__ = ["Snapshot"]
