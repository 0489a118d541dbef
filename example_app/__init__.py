"""A page that opens streams, leaves them, and shows what is given back: ``python -m example_app``."""
