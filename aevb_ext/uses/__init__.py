"""What a trained model is good for, measured and written down: anomalies, representations, arrays in files."""

from .arrays import write_npy, writing_npz
from .auc import AUC, auc
from .held_out import HeldOut, held_out, without_label
from .logistic import Logistic, NotConverged, fit_logistic
from .probe import L2S, Probe, linear_probe, probe_latents, probe_pixels
from .scores import write_scores

__all__ = [
    "AUC",
    "L2S",
    "HeldOut",
    "Logistic",
    "NotConverged",
    "Probe",
    "auc",
    "fit_logistic",
    "held_out",
    "linear_probe",
    "probe_latents",
    "probe_pixels",
    "without_label",
    "write_npy",
    "write_scores",
    "writing_npz",
]
