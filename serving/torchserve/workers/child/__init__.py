"""What runs inside a worker's process, by the worker's own Python: it imports nothing of this project."""
