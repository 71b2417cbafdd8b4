"""The operators in the shape of ``torch.distributions``: a VAE's posterior and its decoder's likelihood as objects.

.. code-block:: python

    from aevb_ext.distributions import Bernoulli, DiagonalGaussian

    posterior = DiagonalGaussian.from_params(encoder(x))  # packed [B, 2 * C, ...]
    z, kl = posterior.rsample_kl()  # KL to N(0, I), one pass for both
    log_likelihood = Bernoulli(logits=decoder(z)).log_prob(x)
    loss = (kl - log_likelihood).mean()  # minus the ELBO, in nats per data point

They are ``Independent(Normal(...), n)`` and ``Independent(Bernoulli(...), n)`` with the first ``batch_dims`` dimensions
(default: one, the data points) as ``batch_shape`` and all later ones as ``event_shape``, computed by
:mod:`aevb_ext.functional`; ``torch.distributions.kl_divergence`` knows them, also against PyTorch's own. What differs
most (docs/distributions.md has all of it, and the dtype of every result):

* Arguments' *values* are validated only with ``validate_args=True``: it needs the host to wait for the device, and
  nothing else here does. Shapes and dtypes are always checked.
* For half-precision parameters, densities, entropies, divergences, standard deviations and variances are float32 (the
  variance of a float16 logvar of 12 is no float16); samples, means and ``logvar`` have the parameters' dtype.
* Samples take a noise ``key=`` or a ``generator=``, which may be a list of generators, one per data point: a data
  point's sample then does not depend on the batch that it is in. (torch.compile cannot trace a Generator: draw the key
  outside with :func:`aevb_ext.noise_key`, or give neither.)
"""

from . import kl as kl  # registers the divergences
from .bernoulli import Bernoulli
from .gaussian import DiagonalGaussian

__all__ = ["Bernoulli", "DiagonalGaussian"]
