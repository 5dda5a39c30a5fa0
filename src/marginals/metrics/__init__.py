"""Scores for samples: distance to real pictures, agreement with labels, nearness to copies.

report = frechet_report(samples, training, held_out, lite0())     # FD-lite0 and its floor
judge = train_classifier(training, labels, held_out, held_out_labels, names)
agreement(judge, samples, asked_for), judge.accuracy              # two Shares
memorisation(samples, held_out, training).share                   # about 0.05 is healthy
"""

from .classifier import Classifier, Share, agreement, class_table, train_classifier
from .features import Extractor, extract, lite0
from .frechet import FrechetReport, frechet_distance, frechet_report, kernel_distance
from .neighbours import Memorisation, Neighbours, memorisation, nearest

__all__ = [
    "Classifier",
    "Extractor",
    "FrechetReport",
    "Memorisation",
    "Neighbours",
    "Share",
    "agreement",
    "class_table",
    "extract",
    "frechet_distance",
    "frechet_report",
    "kernel_distance",
    "lite0",
    "memorisation",
    "nearest",
    "train_classifier",
]
