"""Configs of checkpoints, and the user's options; without torch."""
