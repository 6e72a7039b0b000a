"""What a checkpoint and its user configure, without torch."""
