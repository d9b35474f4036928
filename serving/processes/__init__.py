"""Several processes that are one server: front ends that speak HTTP, engine processes, and the one that looks after them."""
