"""The geography inside: activations of models, what can be read from them, and what they cause.

Activations are kept on disk (`activations`), places are read from them by probes (`probes`), spaces
are compared with each other and with the globe (`alignment`), sparse autoencoders take them apart
(`sparse`) into features whose places are looked at (`concentration`), and maps are moved by
changing activations (`steering`).
"""
