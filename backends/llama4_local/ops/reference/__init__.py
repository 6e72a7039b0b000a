"""The layers' functions in PyTorch: the CPU path, and the oracle for every kernel."""
