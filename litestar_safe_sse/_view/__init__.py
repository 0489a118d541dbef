"""What ``StreamsView`` shows, and the route that shows it."""
