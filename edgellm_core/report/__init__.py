"""Reports for people: a model in several precisions, side by side."""
