"""Ahead-of-time compilation of every launch, and the checks of its machine code."""
