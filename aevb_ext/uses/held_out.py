"""Anomaly detection put to the test: train without the data points of a label, and see whether they stand out."""

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .._files import atomic_write, naming
from ..data import SPLITS, Data, subset
from ..models import VAE
from ..train import fit
from ..train.checkpoint import model_file
from ..train.settings import Settings
from .auc import AUC, auc

__all__ = ["HeldOut", "hold_out_label", "held_out_labels", "write_scores"]
