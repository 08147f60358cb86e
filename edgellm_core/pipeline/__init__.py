"""The order of the stages: cache, resume, events, and publication of the bundle."""
