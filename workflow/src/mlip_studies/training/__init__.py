"""Training of the models: configuration, loop, resumable state."""
