"""The functions that layers call, in PyTorch (`reference`) and in Triton (`kernels`)."""
