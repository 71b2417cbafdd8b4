"""A case: a random call in several layouts, forward and backward, compared with its formulas."""

import dataclasses

import torch
from torch import Tensor

from . import bits, calls, layers, likelihoods, vectors
from .calls import Call
from .drawing import Draw
from .exact import fault
from .layers import LayerCall

BUILDERS = calls.BUILDERS + layers.BUILDERS + likelihoods.BUILDERS + vectors.BUILDERS + bits.BUILDERS
ROUNDS = 4  # ways that the tensors of a case lie in memory, each with cotangents of its own


def check(number: int) -> tuple[int, str]:
    """How many calls the case of this number made, and what is wrong with them, or nothing."""
    draw = Draw(number)
    call = draw.one_of(BUILDERS)(draw)
    if draw.often(0.05):
        call = _with_nan(draw, call)
    values, before, wrong, made = call.values(), None, [], 0
    for round in range(ROUNDS):
        tensors = call.tensors if round == 0 else {name: draw.lie_as(t) for name, t in call.tensors.items()}
        leaves = {n: t.detach().requires_grad_(t.is_floating_point()) for n, t in tensors.items()}
        learnt = {name: t for name, t in leaves.items() if t.requires_grad}
        found = _tuple(call.function(**leaves))
        if any(result.requires_grad for result in found):
            cotangents = [_cotangent(draw, result) for result in found]
            gradients = torch.autograd.grad(
                found, list(learnt.values()), cotangents, allow_unused=True, materialize_grads=True
            )
            expected = call.gradients(cotangents)
            for (name, t), gradient in zip(learnt.items(), gradients, strict=True):
                if what := fault(gradient, expected[name], t.dtype, is_gradient=True):
                    wrong.append(f"round {round}, gradient of {name}: {what}")
        plain = _tuple(call.function(**tensors))  # nothing is differentiated: another pass
        made += 3
        for i, (result, value) in enumerate(zip(found, values, strict=True)):
            if what := fault(result, value, call.results[i].dtype):
                wrong.append(f"round {round}, result {i}: {what}")
            if not (isinstance(call, LayerCall) or _same_bits(result.detach(), plain[i])):
                wrong.append(f"round {round}, result {i} has other bits where no gradient is asked for")
            if before is not None and call.results[i].same_bits and not _same_bits(before[i], plain[i]):
                wrong.append(f"round {round}, result {i} has other bits in another layout")
        before = plain
    return made, f"case {number}: {call}\n    " + "\n    ".join(wrong) if wrong else ""


def outcome(number: int) -> tuple[int, str]:
    """:func:`check` in a process of its own, beside others: what it raises is wrong too."""
    torch.set_num_threads(1)
    try:
        return check(number)
    except Exception as error:
        return 1, f"case {number}: {type(error).__name__}: {error}"


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def _with_nan(draw: Draw, call: Call) -> Call:
    """One of its floating numbers is NaN: so is what depends on it, and nothing else.

    Where a tensor is empty nothing may depend on it, and its own gradient is 0 or NaN, as the operators go.
    """
    floating = [n for n, t in call.tensors.items() if t.is_floating_point() and 0 not in t.stride()]
    if not floating or any(t.numel() == 0 for t in call.tensors.values()):
        return call
    name = draw.one_of(floating)
    t = call.tensors[name].clone()
    t[tuple(draw.choice.randrange(size) for size in t.shape)] = torch.nan
    return dataclasses.replace(call, tensors=call.tensors | {name: t})


def _cotangent(draw: Draw, result: Tensor) -> Tensor:
    match draw.choice.randrange(4):
        case 0:
            return torch.ones_like(result)
        case 1:
            return torch.full_like(result, draw.choice.uniform(-2, 2))
        case 2:
            return draw.lie_as(draw.normal(result.shape).to(result.dtype))
        case _:
            return (draw.normal(result.shape) * (draw.uniform(result.shape) < 0.5)).to(result.dtype)


def _tuple(results) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)
