"""The geography inside: activations of models, what can be read from them, and what they cause.

Activations are kept on disk (`activations`), places are read from them by probes (`probes`), spaces
are compared with each other and with the globe (`alignment`), and maps are moved by changing
activations (`steering`).
"""
