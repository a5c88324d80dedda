"""The demo: a client and two services in processes of their own, and the one trace that goes through them."""
