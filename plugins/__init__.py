"""Model families that ship with edgellm: one folder each, found by scanning."""
