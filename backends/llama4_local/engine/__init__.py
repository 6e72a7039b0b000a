"""The engine: requests in, one step of the model at a time, tokens out."""
