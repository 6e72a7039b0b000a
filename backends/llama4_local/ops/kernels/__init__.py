"""Triton kernels for Hopper GPUs, each with a twin in `reference`."""
