"""One image at a time: what the one-image commands and the stages call."""
