"""What every room stands on: storage, the machine's facts, the root of the errors."""
