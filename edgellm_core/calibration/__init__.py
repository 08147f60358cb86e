"""Quantization of a checkpoint: calibration data, statistics of one layer at a time, scales, and the files written."""
