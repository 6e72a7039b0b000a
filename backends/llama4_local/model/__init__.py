"""The network as functions over explicit state: no modules, no hidden buffers."""
