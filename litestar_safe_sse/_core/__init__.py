"""The streams: ASGI, and nothing of Litestar."""
