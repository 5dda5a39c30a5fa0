"""Trained models measured, and set beside each other."""
