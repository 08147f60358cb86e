"""The parity gate: the graph is executed and compared with the original model before anything is published."""
