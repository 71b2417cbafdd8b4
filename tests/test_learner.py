"""Options of a training step: schedules, clipping, averages, accumulation, loss scale, skipping, totals."""

import math

import pytest
import torch

from aevb_ext.learners import AEVB, MCEM, FullVB, WakeSleep
from aevb_ext.learners.accumulator import Accumulator
from aevb_ext.learners.optimization import Adagrad, Schedule
from aevb_ext.models import VAE, mlp_vae
from aevb_ext.nn import ELBOTerms
from aevb_ext.noise import keys_at

N, M, DIM = 50, 12, 6


def learner(seed=0, dtype=torch.float64, **kwargs):
    model = mlp_vae(DIM, latent=2, hidden=5, generator=torch.Generator().manual_seed(seed)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(30)
    return AEVB(model, N, batch_size=M, **{"optimizer": "sgd", "lr": 0.01} | kwargs)


def minibatch(step=0, dtype=torch.float64):
    x = torch.rand(M, DIM, generator=torch.Generator().manual_seed(step), dtype=dtype)
    return x, keys_at(0, "posterior", torch.arange(M) + 100 * step)


def values(ours):
    return [p.detach().clone() for p in ours.model.parameters()]


def assert_same(ours, others, **tolerance):
    for p, q in zip(ours, others, strict=True):
        torch.testing.assert_close(p, q, **tolerance)


def test_the_schedule_is_its_formula():
    schedule = Schedule(silent=3, warmup=4, total=27)
    factors = [schedule(t) for t in range(40)]
    assert factors[:7] == [0, 0, 0, 0.25, 0.5, 0.75, 1]
    for t in range(7, 27):
        assert factors[t] == pytest.approx(math.cos(math.pi * (t - 7) / 40) ** 2, abs=1e-12)
    assert max(factors[27:]) < 1e-12
    assert [Schedule()(t) for t in (0, 10**6)] == [1, 1]


def test_the_learning_rate_of_a_step_is_the_schedule_s():
    ours = learner(lr_warmup=4)
    for t in range(6):
        before = values(ours)
        ours.step(*minibatch(t))
        weights = [p for p in ours.model.parameters() if p.dim() > 1]
        for p, start, after in zip(ours.model.parameters(), before, values(ours), strict=True):
            decay = M / N * start if any(p is w for w in weights) else 0
            torch.testing.assert_close(after, start - 0.01 * min(1, (t + 1) / 4) * (p.grad + decay), rtol=1e-12, atol=0)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "sgd"])
def test_a_learning_rate_on_the_device_takes_the_same_steps(optimizer):
    ours, other = (learner(optimizer=optimizer, lr_warmup=3) for _ in range(2))
    # As on a GPU, where a graph must read it.
    groups = [{k: g[k] for k in ("params", "weight_decay")} for g in other.optimizer.param_groups]
    lr = torch.tensor(0.01, dtype=torch.float64)
    made = {"adagrad": Adagrad, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}[optimizer]
    other.optimizer = made(groups, lr)
    for t in range(110):
        ours.step(*minibatch(t)), other.step(*minibatch(t))
    assert_same(values(ours), values(other), rtol=1e-11, atol=1e-13)
    assert not torch.equal(values(ours)[0], values(learner())[0])


@pytest.mark.parametrize("accumulate", [2, 3, 12])
def test_parts_add_up_to_the_minibatch(accumulate):
    whole, parts = learner(n_samples=2), learner(n_samples=2, accumulate=accumulate)
    for t in range(3):
        torch.testing.assert_close(parts.step(*minibatch(t)), whole.step(*minibatch(t)), rtol=1e-12, atol=0)
    assert_same(values(parts), values(whole), rtol=1e-12, atol=1e-15)
    one, other = (ours.totals.read() for ours in (whole, parts))
    assert one[:3] == pytest.approx(other[:3], rel=1e-12) and one[3:] == other[3:] == (0, None, 0)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("estimator", ["a", "b", "iwae"])
def test_samples_in_blocks_take_the_same_steps(estimator, accumulate):
    options, rows = {"estimator": estimator, "n_samples": 7}, []
    at_once, in_blocks = learner(**options), learner(**options, sample_block=3, accumulate=accumulate)
    in_blocks.model.decoder.net.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[0]))
    for t in range(3):
        torch.testing.assert_close(in_blocks.step(*minibatch(t)), at_once.step(*minibatch(t)), rtol=1e-12, atol=0)
    assert_same(values(in_blocks), values(at_once), rtol=1e-11, atol=1e-14)
    assert max(rows) == 3 * M // accumulate


def test_samples_in_blocks_with_free_bits():
    options = {"n_samples": 7, "free_bits": 0.5, "beta": 0.5}
    at_once, in_blocks = learner(**options), learner(**options, sample_block=3)
    torch.testing.assert_close(in_blocks.step(*minibatch()), at_once.step(*minibatch()), rtol=1e-12, atol=0)
    assert_same(values(in_blocks), values(at_once), rtol=1e-11, atol=1e-14)


def test_clipping_bounds_the_gradient_of_the_mean():
    free, clipped = learner(), learner(clip=0.1)
    x, key = minibatch()
    free.step(x, key), clipped.step(x, key)
    gradients = [p.grad for p in free.model.parameters()]
    norm = torch.cat([g.flatten() for g in gradients]).norm() / M
    assert norm > 0.2
    assert_same([p.grad for p in clipped.model.parameters()], [g * 0.1 / norm for g in gradients], rtol=1e-5, atol=0)
    loose = learner(clip=10 * norm.item())
    loose.step(x, key)
    assert_same(values(loose), values(free), rtol=0, atol=0)


def test_the_average_is_the_exponential_one():
    ours = learner(ema=0.9)
    expected = values(ours)
    for t in range(5):
        ours.step(*minibatch(t))
        expected = [0.9 * a + 0.1 * p for a, p in zip(expected, values(ours), strict=True)]
    assert_same([value for _, value in ours.average.named()], expected, rtol=1e-12, atol=1e-15)
    own = values(ours)
    with ours.average.in_place():
        assert_same(values(ours), expected, rtol=1e-12, atol=1e-15)
    assert_same(values(ours), own, rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "sgd"])
def test_a_step_that_is_not_finite_is_skipped_whole(optimizer):
    options = {"optimizer": optimizer, "ema": 0.9, "skip_non_finite": True, "beta": 0.5, "beta_warmup": 200}
    ours, other = learner(**options), learner(**options)
    bad = torch.full((M, DIM), float("nan"), dtype=torch.float64)
    ours.step(bad, minibatch()[1])
    for t in range(105):
        ours.step(*minibatch(t)), other.step(*minibatch(t))
        if t == 103:
            ours.step(bad, minibatch()[1])
    # Parameters, averages, the optimizer's state: all but the count of steps, which the learning rate goes by.
    assert all(p.isfinite().all() for p in ours.model.parameters())
    if optimizer == "sgd":
        assert ours.objective.current_beta == pytest.approx(0.5 * 107 / 200)
    elif optimizer == "adam":
        steps = [state["step"].item() for state in ours.optimizer.state.values()]
        assert steps == [105.0] * len(steps)
    totals = ours.totals.read()
    assert totals.non_finite == 2 * M and totals.first_bad_step == 1 and totals.skipped == 2
    assert math.isfinite(totals.bound) and other.totals.read()[3:] == (0, None, 0)


class Normed(torch.nn.Sequential):
    """An encoder with a batch norm, and a parameter that nothing depends on."""

    def __init__(self):
        super().__init__(torch.nn.BatchNorm1d(DIM), torch.nn.Linear(DIM, 4))
        self.unused = torch.nn.Parameter(torch.zeros(3))


def test_a_skipped_step_leaves_the_statistics_of_a_batch_norm():
    torch.manual_seed(0)
    model = VAE(Normed(), torch.nn.Linear(2, DIM), 2)
    ours = AEVB(model, N, batch_size=M, optimizer="sgd", lr=0.01, skip_non_finite=True)
    ours.step(*minibatch(dtype=torch.float32))
    x, key = minibatch(1, torch.float32)
    x[3, 2] = float("inf")
    before = [t.clone() for t in model.state_dict().values()]
    ours.step(x, key)
    assert_same(list(model.state_dict().values()), before, rtol=0, atol=0)
    ours.step(*minibatch(2, torch.float32))
    assert ours.totals.read().skipped == 1
    assert not torch.equal(model.encoder[0].running_mean, before[3]) and model.encoder[0].running_mean.isfinite().all()


def test_the_last_learning_rate_is_that_of_the_step_before():
    ours = learner(optimizer="adagrad", lr=0.5)
    for expected in [0.0] * 100 + [0.5]:
        ours.step(*minibatch())
        assert ours.last_lr == expected == ours.optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("learner", [AEVB, WakeSleep, MCEM, FullVB])
def test_nothing_to_learn_is_refused(learner):
    frozen = mlp_vae(DIM, latent=2, hidden=5).requires_grad_(False)
    with pytest.raises(ValueError, match=r"nothing to learn|no parameters to learn"):
        learner(frozen, N, batch_size=M)
    without = VAE(torch.nn.Linear(DIM, 4).requires_grad_(False), torch.nn.Identity(), 2)
    with pytest.raises(ValueError, match=r"nothing to learn|no parameters"):
        learner(without, N, batch_size=M)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "sgd"])
def test_a_loss_scale_changes_nothing_but_range(optimizer):
    """fp16 on the CPU: learns as float32 does, to half precision; what overflows is not taken."""
    ours, plain = (
        learner(dtype=torch.float32, optimizer=optimizer, lr=1e-3, precision=precision)
        for precision in ("fp16", "float32")
    )
    for t in range(103):
        half, full = (o.step(*minibatch(t, torch.float32)) for o in (ours, plain))
    torch.testing.assert_close(half, full, rtol=5e-3, atol=0)
    assert_same(values(ours), values(plain), rtol=2e-2, atol=2e-2)
    before = values(ours)
    ours.step(torch.full((M, DIM), float("inf")), minibatch()[1])
    assert_same(values(ours), before, rtol=0, atol=0)


def test_totals_do_not_depend_on_when_they_are_summed():
    """Many minibatches are summed at once: to the bit as one after another, whatever their sizes."""
    generator, at_once, one_by_one = torch.Generator().manual_seed(0), Accumulator("cpu"), Accumulator("cpu")
    at_once.begin_at(50), one_by_one.begin_at(50)
    for step in range(150):
        bound, reconstruction, kl = torch.randn(3, 7 if step % 40 < 33 else 5, generator=generator)
        if step in (70, 130):
            bound[2] = float("nan")
        for totals in (at_once, one_by_one):
            totals.add(ELBOTerms(bound, reconstruction, kl))
            totals.count_step()
        one_by_one._sum_pending()
    both = at_once.read(), one_by_one.read()
    assert both[0] == both[1] and both[0].first_bad_step == 121 and both[0].non_finite == 2
    assert at_once.read().non_finite == 0 and math.isnan(at_once.read().bound)


def test_the_totals_are_the_mean_of_what_is_finite():
    totals_so_far, kl = Accumulator("cpu"), torch.rand(6, dtype=torch.float64)
    bound = torch.tensor([-1.0, -2.0, float("nan"), -3.0, float("-inf"), -6.0], dtype=torch.float64)
    good = bound.isfinite()
    totals_so_far.count_step()
    totals_so_far.add(ELBOTerms(bound, bound + kl, kl))
    totals_so_far.count_step()
    totals = totals_so_far.read()
    assert (totals.bound, totals.non_finite, totals.first_bad_step) == (-3.0, 2, 2)
    assert totals.kl == pytest.approx(kl[good].mean().item(), rel=1e-15)
    empty = totals_so_far.read()
    assert math.isnan(empty.bound) and empty.non_finite == 0 and empty.first_bad_step is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"optimizer": "lbfgs"}, "optimizer must be one of adagrad, adam, sgd, got 'lbfgs'"),
        ({"estimator": "c"}, "estimator must be one of a, b, iwae"),
        ({"estimator": "a", "beta": 2.0}, 'beta, beta_warmup and free_bits need estimator "b"'),
        ({"n_samples": 0}, "n_samples must be at least 1, got 0"),
        ({"sample_block": 0}, "sample_block must be at least 1, got 0"),
        ({"precision": "fp8"}, "precision must be one of float32, tf32, bf16, fp16"),
        ({"precision": "tf32"}, '"tf32" needs a CUDA device, but the model is on cpu'),
    ],
    ids=str,
)
def test_bad_arguments_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        learner(**bad)
