"""Checkpoint folders: checked from their headers, read tensor by tensor, quantized and written."""
