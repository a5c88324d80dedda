"""The demo: a client and two services in separate processes, and the trace that passes through them."""
