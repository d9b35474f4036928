"""An artifact behind plain FastAPI, as a good engineer writes it first."""
