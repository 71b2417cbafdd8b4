"""The operators in the shape of ``torch.distributions``: a VAE's posterior and its decoder's likelihood as objects.

.. code-block:: python

    from aevb_ext.distributions import Bernoulli, DiagonalGaussian

    posterior = DiagonalGaussian.from_params(encoder(x))  # packed [B, 2 * C, ...]
    z, kl = posterior.rsample_kl()  # KL to N(0, I), one pass for both
    log_likelihood = Bernoulli(logits=decoder(z)).log_prob(x)
    loss = (kl - log_likelihood).mean()  # minus the ELBO, in nats per data point

They correspond to ``Independent(Normal(...), n)`` and ``Independent(Bernoulli(...), n)``. The first ``batch_dims``
dimensions (default: one, the data points) are the ``batch_shape``, all later ones the ``event_shape``. The operators of
:mod:`aevb_ext.functional` compute them. ``torch.distributions.kl_divergence`` supports them, also against PyTorch's own
distributions. The main differences from PyTorch (docs/distributions.md lists all, and the dtype of every result):

* The *values* of arguments are validated only with ``validate_args=True``, since that makes the host wait for the
  device; nothing else here does. Shapes and dtypes are always checked.
* For half-precision parameters, densities, entropies, divergences, standard deviations and variances are float32 (the
  variance of a float16 logvar of 12 overflows float16). Samples, means and ``logvar`` have the parameters' dtype.
* Samples take a noise ``key=`` or a ``generator=``, which may be a list of generators, one per data point: a data
  point's sample then does not depend on the batch that it is in. (torch.compile cannot trace a Generator: draw the key
  outside with :func:`aevb_ext.noise_key`, or give neither.)
"""

from . import kl as kl  # registers the divergences
from .bernoulli import Bernoulli
from .gaussian import DiagonalGaussian
from .mixture import DiagonalGaussianMixture

__all__ = ["Bernoulli", "DiagonalGaussian", "DiagonalGaussianMixture"]
