"""Uses of a trained model: anomaly detection, linear probes of its representation, and writing arrays to files."""

from .anomaly import AUC, HeldOut, auc, held_out, without_label
from .arrays import write_npy, write_scores, writing_npz
from .probe import L2S, Logistic, NotConverged, Probe, fit_logistic, linear_probe, probe_latents, probe_pixels

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
