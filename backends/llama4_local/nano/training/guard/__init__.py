"""Making nano-guard: its data, its shape, its training and its figures."""
