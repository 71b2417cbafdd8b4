"""The table of public functions, classes and methods, from which test_machinery*.py are generated.

A new public function, class or method is one more row of ROWS: a public name without a row fails a test.
"""

import functools

import torch
from program import EVENT, Argument, Row
from torch import nn

import aevb_ext
import aevb_ext.compat
import aevb_ext.distributions
import aevb_ext.nn
from aevb_ext.distributions import Bernoulli, DiagonalGaussian, DiagonalGaussianMixture

# What is public, by the prefix of its rows' names; and what of it no tensor flows through.
MODULES = {
    "": aevb_ext,
    "compat.": aevb_ext.compat,
    "distributions.": aevb_ext.distributions,
    "nn.": aevb_ext.nn,
}
WITHOUT_GRADIENT = {"build_info", "noise_key"}
# Likelihoods that are another formula in the operator of one that has a row.
SHARED = {
    "negative_binomial_log_prob",
    "laplace_log_prob",
    "continuous_bernoulli_log_prob",
    "discretized_logistic_log_prob",
    "nn.NegativeBinomialDecoder",
    "nn.LaplaceDecoder",
    "nn.DiscretizedLogisticDecoder",
    "nn.ContinuousBernoulliDecoder",
    "nn.CategoricalDecoder",
}

NUMBER = Argument()
LOG_VARIANCE = Argument(torch.tanh)
VARIANCE = Argument(lambda t: 1 + t.square())
PROBABILITY = Argument(torch.sigmoid)
PACKED = Argument(width=2 * EVENT)
POSTERIOR = {"mu": NUMBER, "logvar": LOG_VARIANCE}
PRIOR = {"prior_mu": NUMBER, "prior_logvar": LOG_VARIANCE}


def _of_layer(function, width, logvar=False, **options):
    """A likelihood of a linear layer, whose weights are numbers of no importance."""

    def call(h, x):
        weight = torch.linspace(-1, 1, width * EVENT, device=h.device).to(h.dtype).reshape(width, EVENT)
        learnt = {"logvar": weight[0, 0]} if logvar else {}
        return function(x, h, weight, weight[:, 0], **learnt, **options)

    return call


def _of_pixels(params, x):
    """Each data point is one pixel, of the three colours that the event has."""
    return aevb_ext.discretized_logistic_mixture_log_prob(2 * x[..., None, None] - 1, params[..., None, None])


def _of_components(z, **options):
    """Of a mixture of two components."""
    mu = torch.linspace(-1, 1, 2 * EVENT, device=z.device).to(z.dtype).reshape(2, EVENT)
    return aevb_ext.mixture_log_prob(z, mu, mu, mu[:, 0], **options)


FUNCTIONS = [
    Row("rsample", aevb_ext.rsample, POSTERIOR, draws_noise=True),
    Row("gaussian_kl", aevb_ext.gaussian_kl, POSTERIOR),
    Row("gaussian_kl", aevb_ext.gaussian_kl, POSTERIOR | PRIOR, variant="to_prior"),
    Row("rsample_kl", aevb_ext.rsample_kl, POSTERIOR, draws_noise=True),
    Row("bernoulli_log_prob", aevb_ext.bernoulli_log_prob, {"logits": NUMBER}, data=("x",)),
    Row("bernoulli_log_prob_of_probs", aevb_ext.bernoulli_log_prob_of_probs, {"probs": PROBABILITY}, data=("x",)),
    Row("gaussian_log_prob", aevb_ext.gaussian_log_prob, POSTERIOR, data=("x",)),
    Row("poisson_log_prob", aevb_ext.poisson_log_prob, {"log_rate": NUMBER}, data=("x",)),
    Row(
        "zero_inflated_negative_binomial_log_prob",
        aevb_ext.zero_inflated_negative_binomial_log_prob,
        {"mean": VARIANCE, "dispersion": VARIANCE, "gate_logits": NUMBER},
        data=("x",),
    ),
    Row(
        "student_t_log_prob",
        aevb_ext.student_t_log_prob,
        {"mu": NUMBER, "scale": VARIANCE, "df": VARIANCE},
        data=("x",),
    ),
    Row(
        "categorical_log_prob",
        lambda logits, x: aevb_ext.categorical_log_prob(x.argmax(-1), logits),
        {"logits": NUMBER},
        data=("x",),
        any_dtype=True,
    ),
    Row(
        "discretized_logistic_mixture_log_prob",
        _of_pixels,
        {"params": Argument(width=10)},
        data=("x",),
        any_dtype=True,
    ),
    Row("linear_bernoulli_log_prob", _of_layer(aevb_ext.linear_bernoulli_log_prob, EVENT), {"h": NUMBER}, data=("x",)),
    *(
        Row(
            "linear_gaussian_log_prob",
            _of_layer(aevb_ext.linear_gaussian_log_prob, width, logvar, sigmoid=sigmoid),
            {"h": NUMBER},
            data=("x",),
            variant=variant,
        )
        for width, logvar, sigmoid, variant in ((2 * EVENT, False, True, ""), (EVENT, True, False, "learned_spread"))
    ),
    Row("mixture_log_prob", _of_components, {"z": NUMBER}),
    Row(
        "mixture_log_prob",
        functools.partial(_of_components, factorised=True, reduction="none"),
        {"z": NUMBER},
        variant="factorised",
    ),
    Row("halves", aevb_ext.halves, {"params": PACKED}, any_dtype=True),
]

# Functions of data, through which no gradient flows: what they make weighs what a layer has made.
DATA = [
    Row("binarize", lambda x, key: x * aevb_ext.binarize(x, key), {"x": PROBABILITY}, draws_noise=True),
    Row(
        "unpack_bits",
        lambda h: h * aevb_ext.unpack_bits((40 * h[..., :1].abs()).to(torch.uint8), EVENT),
        {"h": NUMBER},
        any_dtype=True,
    ),
]


def _loss_row(name, learnt, data=("target",), **options):
    return Row(f"compat.{name}", functools.partial(getattr(aevb_ext.compat, name), **options), learnt, data)


COMPAT = [
    _loss_row("binary_cross_entropy_with_logits", {"input": NUMBER}),
    _loss_row("binary_cross_entropy", {"input": PROBABILITY}),
    _loss_row("gaussian_nll_loss", {"input": NUMBER, "var": VARIANCE}, full=True),
    Row("compat.reparameterize", aevb_ext.compat.reparameterize, POSTERIOR, draws_noise=True, takes_key=False),
    Row(
        "compat.vae_loss",
        lambda **t: aevb_ext.compat.vae_loss(**t) / t["mu"].shape[0],
        {"recon_x": PROBABILITY} | POSTERIOR,
        data=("x",),
    ),
]


def _gaussian(name, use, learnt=POSTERIOR, **options):
    """A method of DiagonalGaussian: `use` of it, and of the tensors that are not its parameters."""

    def call(mu, logvar, **others):
        return use(DiagonalGaussian(mu, logvar), **others)

    return Row(f"distributions.DiagonalGaussian.{name}", call, learnt, **options)


def _bernoulli(name, use, parameter="logits", **options):
    def call(**tensors):
        return use(Bernoulli(**{parameter: tensors.pop(parameter)}), **tensors)

    learnt = {parameter: PROBABILITY if parameter == "probs" else NUMBER}
    return Row(f"distributions.Bernoulli.{name}", call, learnt, variant=parameter, **options)


def _expanded(distribution):
    """Of the same shape in a batch twice as large, whose other half is in front."""
    return distribution.expand((2, *distribution.batch_shape)).log_prob(distribution.mean / 2).sum(0)


def _of_two_components(value):
    mu = torch.linspace(-1, 1, 2 * EVENT, device=value.device).to(value.dtype).reshape(2, EVENT)
    return DiagonalGaussianMixture(mu, mu / 2, mu[:, 0])


DISTRIBUTIONS = [
    _gaussian("rsample", lambda q, key: q.rsample((2,), key=key).movedim(0, 1), draws_noise=True),
    _gaussian("sample", lambda q, key: q.mean * q.stddev * q.sample(key=key), draws_noise=True),
    _gaussian("rsample_kl", lambda q, key: q.rsample_kl(key=key), draws_noise=True),
    _gaussian("kl", lambda q: q.kl()),
    _gaussian(
        "kl",
        lambda q, prior_mu, prior_logvar: q.kl(DiagonalGaussian(prior_mu, prior_logvar)),
        POSTERIOR | PRIOR,
        variant="to_prior",
        any_dtype=True,
    ),
    _gaussian("log_prob", lambda q, value: q.log_prob(value), data=("value",)),
    _gaussian("moments", lambda q: (q.mean, q.mode, q.stddev, q.variance, q.logvar, q.entropy())),
    _gaussian("expand", _expanded),
    *(
        Row(
            "distributions.DiagonalGaussian.from_params",
            lambda params, key, soft=soft: DiagonalGaussian.from_params(params, clamp=(-1, 1), soft=soft).rsample(
                key=key
            ),
            {"params": PACKED},
            draws_noise=True,
            variant="soft" if soft else "",
        )
        for soft in (False, True)
    ),
    _bernoulli("sample", lambda p, key: p.mean * p.sample(key=key), draws_noise=True),
    _bernoulli("log_prob", lambda p, value: p.log_prob(value), data=("value",)),
    _bernoulli("log_prob", lambda p, value: p.log_prob(value), "probs", data=("value",)),
    _bernoulli("entropy", lambda p: p.entropy()),
    _bernoulli("moments", lambda p: (p.mean, p.variance, p.logits), "probs"),
    _bernoulli("kl", lambda p: torch.distributions.kl_divergence(p, Bernoulli(logits=p.logits / 2))),
    _bernoulli("expand", _expanded),
    Row(
        "distributions.DiagonalGaussianMixture.log_prob",
        lambda value: _of_two_components(value).log_prob(value),
        {"value": NUMBER},
        any_dtype=True,
    ),
    Row(
        "distributions.DiagonalGaussianMixture.moments",
        lambda value: value * (_of_two_components(value).mean + _of_two_components(value).variance),
        {"value": NUMBER},
        any_dtype=True,
    ),
]


class VAE(nn.Module):
    """The heads and the bound together: latents of EVENT features, data of EVENT."""

    def __init__(self, **options):
        super().__init__()
        self.posterior = aevb_ext.nn.GaussianPosterior(nn.Linear(EVENT, 2 * EVENT))
        self.decoder = aevb_ext.nn.BernoulliDecoder(nn.Linear(EVENT, EVENT))
        self.elbo = aevb_ext.nn.ELBO(**options)

    def forward(self, h, x, key):
        return self.elbo(x, self.posterior(h), self.decoder, key=key)


def _elbo(variant="", **options):
    return Row(
        "nn.ELBO",
        lambda module, h, x, key: tuple(module(h, x, key)),
        {"h": NUMBER},
        data=("x",),
        draws_noise=True,
        module=functools.partial(VAE, **options),
        variant=variant,
        any_dtype=True,
        couples_points="free_bits" in options,
    )


def _head(name, module, use, **options):
    return Row(
        f"nn.{name}",
        lambda module, h, **others: use(module, h, **others),
        {"h": NUMBER},
        module=module,
        any_dtype=True,
        **options,
    )


def _of_levels(elbo, mu, logvar, prior_mu, prior_logvar):
    """The bound of two levels, of which the second has a prior of its own; an eighth of it, for float16's range."""
    log_likelihood = aevb_ext.gaussian_log_prob(torch.zeros_like(mu), mu, logvar)
    terms = elbo(log_likelihood, [((prior_mu, logvar), None), ((mu, logvar), (prior_mu, prior_logvar))])
    return type(terms)(*(value / 8 for value in terms))


HEADS = [
    *(
        _head(
            "Linear",
            functools.partial(aevb_ext.nn.Linear, EVENT, 2, tanh=tanh),
            lambda module, h: module(h),
            variant="tanh" if tanh else "",
        )
        for tanh in (False, True)
    ),
    _head(
        "GaussianPosterior",
        lambda: aevb_ext.nn.GaussianPosterior(nn.Linear(EVENT, 2 * EVENT), clamp=(-30, 20)),
        lambda module, h, key: module(h).rsample_kl(key=key),
        draws_noise=True,
    ),
    _head(
        "BernoulliDecoder",
        lambda: aevb_ext.nn.BernoulliDecoder(nn.Linear(EVENT, EVENT)),
        lambda module, h, x: (module.log_prob(x, h), module(h).entropy(), module.mean(h)),
        data=("x",),
    ),
    *(
        _head(
            "GaussianDecoder",
            lambda width=width, options=options: aevb_ext.nn.GaussianDecoder(nn.Linear(EVENT, width), **options),
            lambda module, h, x: (module.log_prob(x, h), module(h).log_prob(x), module.mean(h)),
            data=("x",),
            variant=variant,
        )
        for variant, width, options in (("", 2 * EVENT, {}), ("learned_spread", EVENT, {"logvar": 0.0}))
    ),
    _elbo(),
    _elbo("free_bits", free_bits=0.5, free_bits_groups=1, warmup_steps=10),
    _elbo("capacity", capacity=2.0, n_samples=2),
    _elbo("iwae", importance_weighted=True, n_samples=3),
    _elbo("stl", gradient="stl"),
    _elbo("dreg", importance_weighted=True, n_samples=3, gradient="dreg"),
    Row(
        "nn.ELBOTerms.loss",
        lambda module, h, x, key: module(h, x, key).loss,
        {"h": NUMBER},
        data=("x",),
        draws_noise=True,
        module=VAE,
        any_dtype=True,
    ),
    *(
        Row(
            f"nn.HierarchicalELBO{name}",
            lambda module, use=use, **t: use(_of_levels(module, **t)),
            POSTERIOR | PRIOR,
            module=functools.partial(aevb_ext.nn.HierarchicalELBO, **options),
            variant=variant,
            any_dtype=True,
            couples_points="free_bits" in options,
        )
        for name, use, variant, options in (
            ("", tuple, "", {}),
            ("", tuple, "free_bits", {"free_bits": [9.0, 0.01], "warmup_steps": 10}),
            ("Terms.loss", lambda terms: terms.loss, "", {}),
        )
    ),
    *(
        _head(
            name,
            lambda decoder=decoder, width=width: decoder(nn.Linear(EVENT, width)),
            lambda module, h, x: (module.log_prob(x, h), module.mean(h)),
            data=("x",),
        )
        for name, decoder, width in (
            ("PoissonDecoder", functools.partial(aevb_ext.nn.PoissonDecoder, library_size=3.0), EVENT),
            ("ZeroInflatedNegativeBinomialDecoder", aevb_ext.nn.ZeroInflatedNegativeBinomialDecoder, 2 * EVENT),
            ("StudentTDecoder", aevb_ext.nn.StudentTDecoder, 2 * EVENT),
        )
    ),
]

ROWS = FUNCTIONS + DATA + COMPAT + DISTRIBUTIONS + HEADS
