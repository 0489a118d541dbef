"""What is private to ASGI servers: how their shutdown is learnt of, and what ASGI has no word for."""
