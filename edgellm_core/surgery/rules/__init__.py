"""Rules that hold for every target, one rule a file."""
