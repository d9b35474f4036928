"""Which models there are: registered, loaded, managed, remembered."""
