"""The paged key/value cache: who holds which page, the tensors, prefixes kept by content."""
