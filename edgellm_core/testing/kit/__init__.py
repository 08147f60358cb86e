"""The machinery of the conformance kit: what a run checks, what a check gets, and how it may be skipped."""
