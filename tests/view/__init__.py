"""The view of the live streams, as JSON, in a browser and in a terminal."""
