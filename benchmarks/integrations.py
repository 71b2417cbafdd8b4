"""Other people's programs with our patch and without it: seconds and peak memory of a step of each, taking turns.

The packages are those of the extra `conformance`; a program whose package is not installed is left out, and said so.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .measure import FULL, Effort, interleaved, warm_up
from .memory import peak_bytes

BURST_SECONDS = 0.1  # long beside applying and undoing a patch, which takes about half a millisecond


@dataclass(frozen=True)
class Program:
    """
    build: makes two steps, functions without arguments: the one with our operators, the one without.
    patch: what the first runs in.
    """

    name: str
    build: Callable[[], tuple[Callable, Callable]]
    patch: Callable[[], AbstractContextManager] = nullcontext

    def __str__(self):
        return self.name


def programs() -> list[Program]:
    return [*diffusers_programs(), *pythae_programs()]


def twice(make_step: Callable[[], Callable]) -> Callable[[], tuple[Callable, Callable]]:
    """The same step two times, each with a model of its own."""

    def build():
        return make_step(), make_step()

    return build


def training_step(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step():
        optimizer.zero_grad()
        loss().backward()
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


def measure(program: Program, device: torch.device, effort: Effort = FULL) -> dict:
    """The figures of a program, as the results file has them: "ours" is with the patch, "eager: without it" is not."""
    figures = {"case": str(program), "seconds": {}, "peak_bytes": {}, "failures": {}}
    try:
        with torch.device(device):
            steps = dict(zip(("ours", "eager: without it"), program.build(), strict=True))
            contexts = dict(zip(steps, (program.patch, nullcontext), strict=True))
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
    """Many steps, long beside applying and undoing the patch."""

    def run():
        with context():
            for _ in range(repeats):
                step()

    return run
