"""The assets of a pipeline, one file each: resolve, call one function, say what is."""
