"""Margin-loss face models: data, evaluation and calibration."""
