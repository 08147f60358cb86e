"""Runs graphs of target ``edge-llm`` on the CPU: its operators in plain ones, over a paged KV cache."""
