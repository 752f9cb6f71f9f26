"""Architectures: how images and text are encoded, the forward pass, and the time shift."""
