"""Runs every operator forward and backward on the GPU, for compute-sanitizer to watch: few calls, every kind of kernel.

Run it with PYTORCH_NO_CUDA_MEMORY_CACHING=1: every tensor is then an allocation of its own, and a read or write
past its end is seen.
"""

import itertools

import torch

import aevb_ext

# Short rows, rows of one block with a tail, and rows that several blocks share.
SHAPES = ((5, 3), (3, 784), (2, 100003))
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def calls(x, mu, spread, reduction):
    key = torch.tensor([1, 2], device=mu.device)
    yield aevb_ext.bernoulli_log_prob(x, mu, reduction=reduction)
    yield aevb_ext.bernoulli_log_prob_of_probs(x, mu.sigmoid(), reduction=reduction)
    yield aevb_ext.gaussian_log_prob(x, mu, spread, reduction=reduction)
    yield aevb_ext.gaussian_log_prob(x, mu, spread[:1, :1], reduction=reduction)  # a broadcast spread
    yield aevb_ext.gaussian_kl(mu, spread, reduction=reduction)
    yield aevb_ext.gaussian_kl(mu, spread, x.to(mu.dtype), spread[:1], reduction=reduction)
    yield aevb_ext.rsample(mu, spread, key=key, n_samples=2)
    yield from aevb_ext.rsample_kl(mu, spread, key=key, reduction=reduction)
    yield aevb_ext.noise_key(mu.device)


def main() -> None:
    count = 0
    for shape, dtype, reduction in itertools.product(SHAPES, DTYPES, ("sample", "none", "sum")):
        rows, event = shape
        wide = torch.linspace(-1, 1, rows * 2 * event, device="cuda").reshape(rows, 2 * event).to(dtype)
        mu, spread = wide.requires_grad_().chunk(2, 1)  # strided rows; for an odd event the second half is unaligned
        for x in (mu.detach().sigmoid().requires_grad_(), torch.ones(shape, dtype=torch.uint8, device="cuda")):
            for value in calls(x, mu, spread, reduction):
                if value.requires_grad:
                    wanted = (wide, x) if x.requires_grad else (wide,)
                    torch.autograd.grad(value.sum(), wanted, retain_graph=True, allow_unused=True)
                count += 1
    torch.cuda.synchronize()
    print(f"{count} results computed")


if __name__ == "__main__":
    main()
