"""From logits to text: sampling, token masks, grammars, stop strings."""
