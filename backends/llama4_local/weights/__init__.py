"""The network's tensors: their tree, their names in checkpoints, their quantized forms."""
