"""Targets: what a runtime takes, one folder each."""
