"""Instructions an event and a request, counted by Valgrind: ``python -m benchmarks.instructions --help``."""
