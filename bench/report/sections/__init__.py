"""The page's sections, one per file, each from the results alone."""
