"""Third-party programs with our patch and without: seconds and peak memory of a step of each, taking turns.

The packages are those of the extra `conformance`; a program whose package is not installed is left out, and said so.
"""

import itertools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from aevb_ext import build_info

from .measure import FULL, Effort, interleaved, warm_up
from .memory import peak_bytes

BURST_SECONDS = 0.1  # long compared with applying and undoing a patch, which takes about half a millisecond


@dataclass(frozen=True)
class Program:
    """
    build: makes two steps, functions without arguments: the one with our operators, the one without; and where that
        one can be compiled by torch.compile, this as a third.
    patch: what the first runs in.
    """

    name: str
    build: Callable[[], tuple[Callable, ...]]
    patch: Callable[[], AbstractContextManager] = nullcontext

    def __str__(self):
        return self.name


def programs() -> list[Program]:
    return [
        *diffusers_programs(),
        *pythae_programs(),
        *torch_distributions_programs(),
        *pyro_programs(),
        *scvi_programs(),
        *pytorch_example_programs(),
    ]


def twice(make_step: Callable[[], Callable]) -> Callable[[], tuple[Callable, Callable]]:
    """The same step twice, each with its own model."""

    def build():
        return make_step(), make_step()

    return build


def training_step(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step():
        optimizer.zero_grad()
        loss().backward()
        with torch.device("cpu"):  # where Adam counts its steps; it reads the count
            optimizer.step()

    return step


def diffusers_programs() -> list[Program]:
    from aevb_ext.integrations.diffusers import patch

    def autoencoder():
        from diffusers import AutoencoderKL

        blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
        vae = AutoencoderKL(block_out_channels=(16, 16), latent_channels=4, norm_num_groups=8, **blocks)
        images = torch.rand(4, 3, 32, 32)

        def loss():
            posterior = vae.encode(images).latent_dist
            return F.mse_loss(vae.decode(posterior.sample()).sample, images) + 1e-6 * posterior.kl().mean()

        return training_step(vae, loss)

    def posterior(use):
        """On the latents of 16 pictures of 512 x 512 pixels, forward and backward."""

        def make_step():
            from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

            parameters = torch.randn(16, 8, 64, 64, requires_grad=True)

            def step():
                use(DiagonalGaussianDistribution(parameters)).backward()
                parameters.grad = None

            return step

        return twice(make_step)

    return [
        Program("diffusers: a training step of AutoencoderKL, 4 x 3 x 32 x 32", twice(autoencoder), patch),
        Program("diffusers: posterior.sample() alone", posterior(lambda q: q.sample().sum()), patch),
        Program("diffusers: posterior.kl() alone", posterior(lambda q: q.kl().sum()), patch),
        Program("diffusers: posterior.nll() alone", posterior(lambda q: q.nll(q.mean.detach()).sum()), patch),
    ]


def pythae_programs() -> list[Program]:
    from aevb_ext.integrations.pythae import patch

    def model(name, batch, **options):
        def make_step():
            from pythae import models

            config = getattr(models, f"{name}Config")
            vae = getattr(models, name)(config(input_dim=(1, 28, 28), reconstruction_loss="bce", **options))
            images = {"data": torch.rand(batch, 1, 28, 28).round()}
            return training_step(vae, lambda: vae(images).loss)

        return twice(make_step)

    return [
        Program("pythae: a training step of VAE, 64 x 784", model("VAE", 64, latent_dim=16), patch),
        Program("pythae: a training step of VAE, 1024 x 784", model("VAE", 1024, latent_dim=16), patch),
        Program(
            "pythae: a training step of IWAE, 64 x 10 samples x 784",
            model("IWAE", 64, latent_dim=16, number_samples=10),
            patch,
        ),
    ]


def torch_distributions_programs() -> list[Program]:
    from torch.distributions import Independent, Normal, kl_divergence

    from aevb_ext.integrations.torch_distributions import patch

    def divergence(batch, latent, of):
        def make_step():
            loc, spread = (torch.randn(batch, latent, requires_grad=True) for _ in range(2))
            zeros, ones = torch.zeros(batch, latent), torch.ones(batch, latent)

            def step():
                of(Normal(loc, spread.exp()), Normal(zeros, ones)).mean().backward()
                loc.grad = spread.grad = None

            return step

        return twice(make_step)

    def elementwise(p, q):
        return kl_divergence(p, q).sum(-1)

    def independent(p, q):
        return kl_divergence(Independent(p, 1), Independent(q, 1))

    return [
        Program(f"torch.distributions: the KL of {what}, {batch} x {latent}", divergence(batch, latent, of), patch)
        for batch, latent in ((100, 20), (8192, 128))
        for what, of in (("two Normals, then their sum", elementwise), ("two Independents", independent))
    ]


def _mlp(*sizes: int, between: type[torch.nn.Module] = torch.nn.ReLU) -> torch.nn.Sequential:
    layers = [torch.nn.Sequential(torch.nn.Linear(a, b), between()) for a, b in itertools.pairwise(sizes[:-1])]
    return torch.nn.Sequential(*layers, torch.nn.Linear(*sizes[-2:]))


def pyro_programs() -> list[Program]:
    from aevb_ext.integrations.pyro import patch

    def tutorial():
        """The VAE of its tutorial; one model for both, since Pyro keeps parameters by name."""
        import pyro
        import pyro.distributions as dist
        from pyro.infer import SVI, TraceMeanField_ELBO

        encoder = _mlp(784, 400, 100, between=torch.nn.Softplus)
        decoder = _mlp(50, 400, 784, between=torch.nn.Softplus)
        images = torch.rand(256, 784).round()

        def model(x):
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(x)):
                z = pyro.sample("latent", dist.Normal(x.new_zeros(len(x), 50), x.new_ones(len(x), 50)).to_event(1))
                pyro.sample("obs", dist.Bernoulli(decoder(z).sigmoid()).to_event(1), obs=x)

        def guide(x):
            pyro.module("encoder", encoder)
            with pyro.plate("data", len(x)):
                loc, log_scale = encoder(x).chunk(2, -1)
                pyro.sample("latent", dist.Normal(loc, log_scale.exp()).to_event(1))

        pyro.clear_param_store()
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-4}), loss=TraceMeanField_ELBO())
        return (lambda: svi.step(images),) * 2

    return [Program("Pyro: a step of SVI with TraceMeanField_ELBO, 256 x 784", tutorial, patch)]


def scvi_programs() -> list[Program]:
    from aevb_ext.integrations.scvi import patch

    def likelihood(cells, genes):
        """The reconstruction of SCVI's default, forward and backward: a dispersion for each gene."""

        def build():
            from scvi.distributions import ZeroInflatedNegativeBinomial
            from scvi.distributions._negative_binomial import log_zinb_positive

            mean, gate = (torch.randn(cells, genes) for _ in range(2))
            mean, gate, log_theta = mean.exp().requires_grad_(), gate.requires_grad_(), torch.randn(genes)
            log_theta.requires_grad_()
            counts = torch.poisson(mean.detach())

            def step_of(log_prob):
                def step():
                    log_prob(counts, mean, log_theta.exp(), gate).sum(-1).mean().backward()
                    mean.grad = gate.grad = log_theta.grad = None

                return step

            def as_ever(x, mu, theta, zi_logits):
                return ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=zi_logits).log_prob(x)

            # Compiled, its log_prob would stop at the validation of the counts: their formula alone.
            compiled = torch.compile(log_zinb_positive, dynamic=False)
            return step_of(as_ever), step_of(as_ever), step_of(compiled)

        return build

    def make_step(cells, genes):
        import scvi

        some = scvi.data.synthetic_iid(batch_size=64, n_genes=genes)
        scvi.model.SCVI.setup_anndata(some, batch_key="batch")
        model = scvi.model.SCVI(some)
        (tensors,) = model._make_data_loader(some, batch_size=128)
        tensors = {name: t.repeat(cells // 128, 1) for name, t in tensors.items()}
        return training_step(model.module.train(), lambda: model.module(tensors)[2].loss)

    sizes = ((128, 4000), (1024, 4000), (4096, 20_000))
    return [
        *(
            Program(
                f"scvi-tools: log_prob of ZeroInflatedNegativeBinomial, {cells} x {genes}",
                likelihood(cells, genes),
                patch,
            )
            for cells, genes in sizes
        ),
        *(
            Program(
                f"scvi-tools: a training step of SCVI, {cells} cells x {genes} genes",
                twice(partial(make_step, cells, genes)),
                patch,
            )
            for cells, genes in sizes
        ),
    ]


def pytorch_example_programs() -> list[Program]:
    """The step of PyTorch's VAE example, and with the four lines of docs/pytorch-example.diff."""

    def reparameterize(mu, logvar):
        std = torch.exp(0.5 * logvar)
        return mu + torch.randn_like(std) * std

    def vae_loss(recon_x, x, mu, logvar):
        reconstruction = F.binary_cross_entropy(recon_x, x, reduction="sum")
        return reconstruction - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())

    def make_step(batch, reparameterize, vae_loss):
        encoder, decoder = _mlp(784, 400, 40), _mlp(20, 400, 784)
        x = torch.rand(batch, 784)

        def loss():
            mu, logvar = encoder(x).chunk(2, -1)
            return vae_loss(decoder(reparameterize(mu, logvar)).sigmoid(), x, mu, logvar)

        return training_step(torch.nn.ModuleList([encoder, decoder]), loss)

    def build(batch):
        from aevb_ext import compat

        ours = compat.reparameterize, compat.vae_loss
        return make_step(batch, *ours), make_step(batch, reparameterize, vae_loss)

    return [
        Program(f"PyTorch's VAE example: a training step, {batch} x 784", partial(build, batch))
        for batch in (128, 4096)
    ]


def measure(program: Program, device: torch.device, effort: Effort = FULL) -> dict:
    """The figures of a program, as the results file has them: "ours" is with the patch, the others are not."""
    figures = {"case": str(program), "commit": build_info()["commit"], "seconds": {}, "peak_bytes": {}, "failures": {}}
    try:
        with torch.device(device):
            steps = dict(zip(("ours", "eager: without it", "compile: without it"), program.build(), strict=False))
            contexts = {name: program.patch if name == "ours" else nullcontext for name in steps}
            bursts, repeats = {}, {}
            for name, step in steps.items():
                with contexts[name]():
                    warm_up(step)
                    figures["peak_bytes"][name] = peak_bytes(step, device)
                    start = time.perf_counter()
                    step()
                    repeats[name] = max(1, round(BURST_SECONDS / (time.perf_counter() - start)))
                bursts[name] = burst(step, contexts[name], repeats[name])
            figures["seconds"] = {n: s / repeats[n] for n, s in interleaved(bursts, device, effort).items()}
    except ImportError as missing:
        figures["failures"]["this program"] = f"{type(missing).__name__}: {missing}".splitlines()[0]
    return figures


def burst(step: Callable, context: Callable, repeats: int) -> Callable[[], None]:
    """Many steps, long compared with applying and undoing the patch."""

    def run():
        with context():
            for _ in range(repeats):
                step()

    return run
