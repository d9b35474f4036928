"""The protocols: how bytes of a request become arrays, and arrays the bytes of an answer. One protocol per file."""
