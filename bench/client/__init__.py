"""The load generator: processes of their own that ask a server, and say how long each answer took."""
