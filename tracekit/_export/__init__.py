"""Where finished spans wait, and what takes them."""
