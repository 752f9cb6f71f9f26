"""Training: episodes, flow matching, pretraining, calibration."""
