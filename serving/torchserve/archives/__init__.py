"""A `.mar`, and what it says of itself."""
