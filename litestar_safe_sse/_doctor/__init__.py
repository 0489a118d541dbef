"""What ``litestar sse doctor`` does: the route that it asks, and a probe for each thing that it tells."""
