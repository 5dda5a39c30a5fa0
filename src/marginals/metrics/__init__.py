"""Scores for samples: distance to real pictures, agreement with labels, nearness to copies."""
