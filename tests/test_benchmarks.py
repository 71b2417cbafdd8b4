"""The benchmarks compare like with like, and say so when a ratio is missed."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import aevb_ext
from benchmarks import check, instructions, likelihoods, report, samples, training, users
from benchmarks.cases import BERNOULLI, Case, Shape, cases
from benchmarks.measure import as_tuple, candidates, cotangents_of
from benchmarks.memory import peak_bytes

# One of each operation and reduction, whatever the size: their rivals are functions of tensors of any shape.
DISTINCT = {
    (case.operation.name, case.dtype, case.reduction, case.shape.samples): case
    for device in ("cpu", "cuda")
    for case in cases(device)
} | {line.operation.name: line.case for line in likelihoods.LINES}
# float32: sums of 784 terms, in an order of their own. bfloat16: rivals round each intermediate result to 8 bits.
TOLERANCE = {torch.float32: {"rtol": 2e-5, "atol": 2e-5}, torch.bfloat16: {"rtol": 0.03, "atol": 0.15}}
# Whose rivals are approximations: a Taylor series near 0, a density in place of a bin's mass.
ROUGH = ("continuous Bernoulli", "discretized logistic", "mixture of discretized logistics")


def outcome(case: Case, function, inputs):
    """Value and gradients, of samplers without what is noise in them; and that noise."""
    leaves = [t for t in inputs.values() if t.requires_grad]
    outputs = as_tuple(case.bind(function)(**inputs))
    cotangents = cotangents_of(outputs, case.reduction)
    gradients = torch.autograd.grad(outputs, leaves, cotangents)
    if not case.operation.draws:
        return [*outputs, *gradients], None
    z, *kl = outputs
    mu, logvar = (t.detach().double() for t in halves(inputs))
    dmu, dlogvar = (t.double() for t in halves(dict(zip(inputs, gradients, strict=True))))
    eps = (z.double() - mu) / (0.5 * logvar).exp()
    pathwise = (0.5 * (0.5 * logvar).exp() * cotangents[0].double() * eps).reshape(-1, *mu.shape).sum(0)
    return [*kl, dmu, dlogvar - pathwise], eps


def halves(tensors):
    params = tensors.get("params")
    return params.chunk(2, -1 if params.dim() < 4 else 1) if params is not None else (tensors["mu"], tensors["logvar"])


@pytest.mark.parametrize("case", DISTINCT.values(), ids=str)
def test_rivals_compute_the_same(case):
    """Value and gradients; of samplers, those parts that are not the noise, which is standard normal in each."""
    event = case.shape.event if case.shape.event <= 784 else {49152: 768, 16384: 256}.get(case.shape.event, 784)
    case = replace(case, shape=replace(case.shape, batch=24, event=event))
    inputs = case.inputs("cpu")
    expected, _ = outcome(case, case.operation.ours, inputs)
    for name, function in case.operation.rivals.items():
        found, eps = outcome(case, function, inputs)
        for a, b in zip(found, expected, strict=True):
            message = lambda m, name=name: f"{name}: {m}"  # noqa: E731
            rough = case.operation.name.startswith(ROUGH)
            near = {"rtol": 2e-3, "atol": 2e-3} if rough else TOLERANCE[case.dtype]
            torch.testing.assert_close(a.double(), b.double(), **near, msg=message)
        if eps is not None:
            # Six standard errors of the mean and of the variance of so many normals; less than 1e-8 by chance.
            error = eps.numel() ** -0.5
            assert abs(eps.mean()) < 6 * error and abs(eps.var() - 1) < 6 * 2**0.5 * error, name


def test_every_operator_is_in_the_table():
    timed = {case.operation.operator for case in cases("cpu")}
    # Every sampler draws its key in the timed part, and an encoder's output is taken apart there. What makes data ready
    # has no backward. Layers with their likelihood are a benchmark of their own, benchmarks/head.py.
    others = {"noise_key", "halves", "binarize", "unpack_bits", "linear_bernoulli_log_prob", "linear_gaussian_log_prob"}
    others |= {line.operation.operator for line in likelihoods.LINES}  # a program of its own too
    assert timed | others == set(aevb_ext.functional.__all__)
    assert {case.operation.operator for case in cases("cuda")} == timed


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_cases_have_names_of_their_own(device):
    table = [*cases(device), *training.trainings(device)]
    assert len({str(case) for case in table}) == len(table)


def test_floors_of_worked_examples():
    """x and logits are read, the gradient written: 12 bytes an element. With a cotangent for each row, known later, x
    and logits are read again. With two samples of each data point, x is read once for both."""
    n = 8192 * 784
    assert Case(BERNOULLI, Shape(8192, 784), torch.float32, "mean").floors == (8 * n, 4 * n)
    assert Case(BERNOULLI, Shape(8192, 784), torch.float32, "sample").floors == (8 * n, 12 * n)
    assert Case(BERNOULLI, Shape(8192, 784, samples=2), torch.bfloat16, "mean").floor_bytes == 2 * n + 8 * n


def results(device, times):
    """As a run would give them in which every rival takes `times` times as long as asked."""

    def figures(case):
        seconds = {"ours": 1.0, "copy": times / 1.6} | ({"compiled: ours": 1.0} if isinstance(case, Case) else {})
        seconds |= {f"{kind}: textbook": asked * times for kind, asked in case.asked.items() if kind != "copy"}
        peaks = {"ours": 1.0, "eager: textbook": 9.0, "compile: textbook": (case.memory or 1) * times}
        found = {"case": str(case), "seconds": seconds, "peak_bytes": peaks, "synchronisations": 0}
        if isinstance(case, Case):
            found["host_seconds"] = {"ours": 1.0, "eager: textbook": times}
            one = {"seconds": 1.0, "floor_bytes": 0.85e9 * times}
            found["kernels"] = {"forward": one, "backward": one}
        return found

    measured = {"cases": cases(device), "training": training.trainings(device), "users": users.compared(device)}
    found = {kind: [figures(case) for case in table] for kind, table in measured.items()}
    return {"type": device, "copy_bytes_per_second": 1e9, **found}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_check_passes_what_is_reached(device):
    text, reached = check.report(results(device, 1.001))
    assert reached, text


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_check_fails_what_is_missed_worst_first(device):
    good = results(device, 1.001)
    slow, slower = good["cases"][0], good["cases"][3]
    slow["seconds"]["ours"] = 1.25
    slower["seconds"]["ours"] = 2.0
    text, reached = check.report(good)
    assert not reached
    first = text.splitlines()[1]
    assert slower["case"] in first and slow["case"] not in first
    scores = [verdict.score for verdict in check.verdicts(good)]
    assert scores == sorted(scores) and scores[0] == pytest.approx(1.001 / 2)


@pytest.mark.parametrize("part", ["cases", "training", "users"])
def test_check_fails_what_is_not_measured(part):
    incomplete = results("cpu", 2.0)
    left_out = incomplete[part].pop()
    text, reached = check.report(incomplete)
    assert not reached
    assert left_out["case"] in text.splitlines()[1] and "not measured" in text.splitlines()[1]


def test_check_fails_what_is_slower_compiled():
    """Than the compiled rival; and where that is asked, than 1.1 times ours in eager."""
    good = results("cpu", 2.0)
    first, second = (figures["seconds"] for figures in good["cases"][:2])
    first["compiled: ours"], second["compiled: ours"] = 1.11, 1.01 * second["compile: textbook"]
    missed = [verdict for verdict in check.verdicts(good) if verdict.score < 1]
    assert [(verdict.case, verdict.against) for verdict in missed] == [
        (good["cases"][1]["case"], "compiled, times as fast as compile"),
        (good["cases"][0]["case"], "compiled, times as fast as in eager"),
    ]
    del first["compiled: ours"]
    assert not check.report(good)[1]


def test_check_fails_a_rival_that_is_not_installed():
    without = results("cpu", 2.0)
    del without["training"][0]["seconds"]["jax: textbook"]
    assert not check.report(without)[1]


ABOUT = {"device": "a", "threads": 2, "torch": "2", "jax": None, "aevb_ext": {"cpu_in_use": "avx2", "commit": "c"}}


def test_tables_show_a_rival_that_wins_in_bold():
    found = results("cpu", 1.0) | ABOUT
    found["cases"][0]["seconds"] = {"ours": 1.0, "eager: a": 3.0, "eager: b": 2.0, "compile: a": 0.5, "copy": 0.25}
    row = report.markdown(found).splitlines()[4]
    assert "| 2.00x | **0.50x** | 4.00 |" in row


def test_tables_of_what_is_compiled():
    found = results("cpu", 1.0) | ABOUT
    found["cases"][0]["seconds"] = {"ours": 1.0, "compiled: ours": 1.25, "compile: a": 0.5, "copy": 0.25}
    table = report.markdown(found)
    assert f"| {found['cases'][0]['case']} | 1250.00 ms | 1.25 | **0.40x** |" in table
    assert f"| {found['users'][0]['case']} | 1000.00 ms | 1.00x |" in table


def test_the_table_against_the_minibatch():
    found = results("cpu", 1.0) | ABOUT
    seconds = {"ours": 0.5, "eager: textbook": 1.0, "compile: textbook": 0.25}
    peaks = {"ours": 1e6, "eager: textbook": 3e6, "compile: textbook": 2e6}
    found["by_batch"] = [{"batch": 8192, "seconds": seconds, "peak_bytes": peaks}]
    assert "| 8192 | 16,384 | 2.00x | **0.50x** | 1, 3, 2 |" in report.markdown(found)


def test_pictures_are_drawn(tmp_path):
    seconds = {"ours": 1.0, "eager: textbook": 9.0, "compile: textbook": 2.0, "copy": 0.5}
    size = {"operator": "rsample", "floor_bytes": 1e9, "seconds": seconds, "peak_bytes": seconds}
    found = results("cpu", 1.0) | ABOUT | {"caches": {"L2": 1e6}}
    found["cases"] = [size | {"case": str(case), "elements": 1e7} for case in cases("cpu")[:3]]
    found["training"] = found["training"][:1]
    found["training"][0]["parts"] = {name: {"data": 0.4, "rest": 0.6} for name in found["training"][0]["seconds"]}
    found["training"][0]["parts"].pop("copy")
    found["by_elements"] = [size | {"elements": n} for n in (1e3, 1e6)]
    found["by_threads"] = [size | {"threads": n} for n in (1, 2)]
    found["by_batch"] = [size | {"batch": n} for n in (100, 8192)]
    pytest.importorskip("matplotlib")
    from benchmarks import plots

    pictures = list(plots.draw(found, tmp_path))
    assert len(pictures) == 7 and all(0 < picture.stat().st_size < 150_000 for picture in pictures)


def test_a_compiled_candidate_shares_its_code_with_no_other(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **settings: compiled.append(function) or function)
    case = Case(BERNOULLI, Shape(2, 3), torch.float32, "mean")
    found = candidates(case)
    assert len({function.__code__ for function in compiled}) == len(compiled) == 3
    x, logits = torch.rand(2, 3), torch.randn(2, 3)
    for function in found.values():
        torch.testing.assert_close(function(x=x, logits=logits), found["ours"](x=x, logits=logits))


def test_ways_of_many_samples_agree(monkeypatch):
    """On the same noise: the bound, and the gradient of all that is learnt."""
    k, net = 60, torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 6))
    x, (mu, logvar) = torch.rand(5, 6), torch.randn(2, 5, 3).unbind()
    leaves = [mu.requires_grad_(), logvar.requires_grad_(), *net.parameters()]
    torch.manual_seed(0)
    eps = aevb_ext.rsample(torch.zeros(5, 3), torch.zeros(5, 3), n_samples=k, key=aevb_ext.noise_key())
    monkeypatch.setattr(torch, "randn", lambda *shape: eps)
    losses = []
    for name, loss in samples.ways(k, None).items():
        if name != "compile":
            torch.manual_seed(0)
            value = loss(x, mu, logvar, net, k)
            losses.append([value.detach(), *torch.autograd.grad(value, leaves)])
    assert len(losses) == 3
    for found in losses[1:]:
        torch.testing.assert_close(found, losses[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", [replace(step, batch=3) for step in users.STEPS[2:]], ids=str)
def test_a_users_step_stays_the_same(step, monkeypatch):
    """Before and after the lines are replaced: for the same noise the same gradients, and loss but for constants."""

    def the_same_noise(like):
        key = aevb_ext.noise_key()
        return aevb_ext.rsample(torch.zeros_like(like), torch.zeros_like(like), key=key)

    monkeypatch.setattr(torch, "randn_like", the_same_noise)
    torch.manual_seed(0)
    x, (encoder, decoder) = step.data(), step.model()
    losses, gradients = [], []
    for loss in (users.before, users.after):
        torch.manual_seed(1)
        losses.append(loss(step, x, encoder, decoder))
        gradients.append(torch.autograd.grad(losses[-1], [*encoder.parameters(), *decoder.parameters()]))
    constant = 0.5 * math.log(2 * math.pi) * x[0].numel() if step.gaussian else 0
    torch.testing.assert_close(losses[1], losses[0] + constant, rtol=1e-5, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_instructions_may_shrink_but_not_grow():
    expected = {"a": 1000, "b": 1000}
    assert instructions.compare({"a": 1099, "b": 900}, expected)[1]
    lines, good = instructions.compare({"a": 1000, "b": 800}, expected)
    assert good and "--update" in lines[1] and "--update" not in lines[0]
    assert not instructions.compare({"a": 1101, "b": 1000}, expected)[1]
    assert not instructions.compare({"a": 1000}, expected)[1]


@pytest.fixture
def quiet_steps(monkeypatch):
    """Each contender's run(steps), with noise too small to see and one data point, which every minibatch repeats."""
    made = training.initial

    def quiet():
        model = made()
        with torch.no_grad():
            model.encoder[2].bias[training.LATENT :] = -40.0
        return model

    monkeypatch.setattr(training, "initial", quiet)
    data = training.data_set("cpu")[:1]
    runs, _ = training.runners(training.Training(4, asked={"jax": 1.0}), data)
    del runs["compile: textbook"]  # the function that is compiled is eager's
    return runs


def test_training_steps_start_from_the_same_bound(quiet_steps):
    bounds = {name: float(run(1)) for name, run in quiet_steps.items()}
    assert all(bound == pytest.approx(bounds["ours"], rel=1e-5) for bound in bounds.values()), bounds


def test_training_rivals_learn_alike(quiet_steps):
    """(Ours updates nothing in the first steps of a run, at the same cost.)"""
    if "jax: jit, scan" not in quiet_steps:
        pytest.skip("JAX is not installed")
    learnt = float(quiet_steps["jax: jit, scan"](5))
    assert learnt == pytest.approx(float(quiet_steps["eager: textbook"](5)), rel=1e-3)
    assert learnt != pytest.approx(float(quiet_steps["ours"](1)), rel=0.01)


def test_the_likelihoods_table_is_that_of_the_results():
    root = Path(likelihoods.__file__).parents[1]
    results = [root / f"benchmarks/results/likelihoods-amd-epyc-{isa}-2-threads.json" for isa in ("avx512", "avx2")]
    assert likelihoods.markdown(results) in (root / "docs/likelihoods.md").read_text()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_peak_memory_is_the_peak(device):
    """Of what is known: two results and what was held at once while they came about."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    n = 1 << 20
    x = torch.zeros(n, device=device)

    def call():
        y = x + 1  # 4n
        z = y + 1  # 8n
        del y  # 4n
        w = z.expand(2, n) + 1  # 12n
        return w.sum()

    assert peak_bytes(call, torch.device(device)) == pytest.approx(12 * n, abs=4096)
