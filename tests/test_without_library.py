"""Without compiled kernels every public function computes its formula in plain PyTorch: same noise, bounds and errors.

Where the library is not there at all, or does not load, the import warns. Where a device has no kernels, the first call
with a tensor of it does.
"""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from cases import small_cases
from program import in_plain_pytorch
from test_arguments import CASES as WRONG_KINDS
from test_arguments import KINDS, WRONG
from test_errors import _rows as bad_calls
from torch._subclasses.fake_tensor import FakeTensorMode

import aevb_ext
from aevb_ext import _library, doctor

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(aevb_ext.__file__).parent

# Tests of the operators that pass here as they do on the kernels, but for what is marked `compiled`. `make formulas`
# runs more of them.
TESTS = "values gradients extremes bits machinery_autograd tracing".split()


def run(arguments, folder=ROOT, **environment):
    """Python in a process of its own, which finds this package in `folder`."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_the_tests_of_the_operators():
    names = [str(ROOT / "tests" / f"test_{name}.py") for name in TESTS]
    options = ["-q", "-p", "no:cacheprovider", "-W", "ignore:aevb_ext:RuntimeWarning", "-m", "not slow"]
    configured = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    done = run(["-m", "pytest", *options, *configured, *names], PACKAGE.parent, AEVB_LIBRARY="0", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]


# What a program without the library computes; of the same seed as here.
PROGRAM = """
import json, warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import torch, aevb_ext
    from aevb_ext.models import make_model
    from aevb_ext.models.bound import terms_b
    torch.manual_seed(0)
    mu, logvar = torch.linspace(-3, 3, 70).reshape(10, 7).chunk(1)[0].sin(), torch.linspace(-2, 2, 70).reshape(10, 7)
    z, kl = aevb_ext.rsample_kl(mu, logvar, n_samples=2)
    generators = [torch.Generator().manual_seed(i) for i in range(10)]
    results = [z, kl, aevb_ext.rsample(mu, logvar, generator=generators), aevb_ext.bernoulli_log_prob(mu.cos(), z)]
    results.append(aevb_ext.binarize(mu.abs()).float())
    model = make_model("mlp", x_dim=7, latent=2, hidden=5)
    results += terms_b(model, mu.abs(), key=aevb_ext.noise.keys_at(0, "posterior", torch.arange(10)))
print(json.dumps({
    "said": [str(w.message) for w in said if w.category is RuntimeWarning],
    "info": aevb_ext.build_info(),
    "keys": aevb_ext.noise_key(generator=torch.Generator().manual_seed(5)).tolist(),
    "results": [t.tolist() for t in results],
}))
"""


def of_program(folder=PACKAGE.parent, **environment):
    done = run(["-c", PROGRAM], folder, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def compiled():
    return of_program()


def same(found, compiled):
    """The same key, and the same numbers but for rounding."""
    assert found["keys"] == compiled["keys"]
    for a, b in zip(found["results"], compiled["results"], strict=True):
        torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=1e-5, atol=1e-5)


def test_a_user_may_do_without(compiled):
    found = of_program(AEVB_LIBRARY="0")
    same(found, compiled)
    (said,) = found["said"]
    assert "AEVB_LIBRARY=0 is set: unset it" in said and _library.SLOWER in said
    assert found["info"].keys() == compiled["info"].keys()
    assert found["info"]["cpu_in_use"] == "reference" and found["info"]["cpu_built"] == []
    assert found["info"]["cuda"] is None and found["info"]["version"] == aevb_ext.__version__


def copied_package(folder):
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    return Path(shutil.copytree(PACKAGE, folder / "aevb_ext", ignore=ignored))


@pytest.mark.parametrize(
    ("library", "words"),
    [
        (None, ("was not built", "`pip install --no-build-isolation .`")),
        ("_C.cpython-38-none.so", ("another Python", "pip install")),
        (Path(_library._C.__file__).name if _library._C else "_C.so", ("does not load with torch", "pip install")),
    ],
    ids=["not built", "another Python", "not a library"],
)
def test_a_library_that_is_not_there(tmp_path, compiled, library, words):
    package = copied_package(tmp_path)
    if library:
        (package / library).write_bytes(b"no library")
    found = of_program(tmp_path)
    same(found, compiled)
    (said,) = found["said"]
    assert all(word in said for word in (*words, _library.SLOWER))


def test_doctor_names_what_is_computed(tmp_path):
    copied_package(tmp_path)
    done = run(["-W", "ignore", "-c", "from aevb_ext import doctor; raise SystemExit(doctor.main())"], tmp_path)
    assert done.returncode == 1, done.stderr
    assert "none: every function computes its formula in plain PyTorch" in done.stdout
    assert "fault 1: aevb_ext's compiled library is not there" in done.stdout and "1 fault\n" in done.stdout


@pytest.fixture
def nobody_was_warned(monkeypatch):
    monkeypatch.setattr(_library, "_warned", set())


@pytest.mark.skipif("cuda" in _library.KERNELS, reason="built with CUDA")
def test_cuda_tensors_in_a_build_without_cuda(nobody_was_warned):
    """Fake ones, which need no GPU. Gradients of them are in tests/stand_in."""
    with FakeTensorMode(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        mu, x = (torch.zeros(4, 3, device="cuda") for _ in range(2))
        values = aevb_ext.gaussian_kl(mu, mu), aevb_ext.bernoulli_log_prob(x, mu)
        assert all(t.device.type == "cuda" and t.shape == (4,) for t in values)
    (warning,) = said
    assert "no kernels for the device type cuda" in str(warning.message)
    assert "AEVB_CUDA=1 pip install --no-build-isolation" in str(warning.message)
    assert warning.filename == __file__


def test_rocm_tensors_call_themselves_cuda(monkeypatch, nobody_was_warned):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(_library._C, "has_cuda", True)
    kernels = _library._devices_with_kernels()
    assert "cuda" not in kernels
    monkeypatch.setattr(_library, "KERNELS", kernels)
    with pytest.warns(RuntimeWarning, match=r"no kernels for AMD GPUs \(ROCm\).* torch\.compile fuses them") as said:
        _library.warn_of_formulas("cuda")
    assert "AEVB_CUDA" not in str(said[0].message)
    monkeypatch.setattr(torch.version, "hip", None)
    assert "cuda" in _library._devices_with_kernels()


def test_a_compiled_program_warns_too(nobody_was_warned, fresh_compiler, monkeypatch):
    monkeypatch.setattr(_library, "KERNELS", frozenset(("meta",)))
    function = torch.compile(aevb_ext.gaussian_kl, fullgraph=True, backend="eager")
    with pytest.warns(RuntimeWarning, match="no kernels for the device type cpu"):
        function(torch.zeros(4, 3), torch.zeros(4, 3))


LAYER = {"x": (4, 3), "h": (4, 2), "weight": (3, 2)}
BAD_LAYERS = [
    {"weight": (3,)},
    {"h": (4, 5)},
    {"bias": (2,)},
    {"x": (5, 3)},
    {"batch_dims": 2},
    {"weight": torch.zeros(3, 2, dtype=torch.float16)},
    {"x": torch.zeros(4, 3, device="meta")},
    {"bias": torch.zeros(3, device="meta")},
    {"reduction": "all"},
]
BAD_GAUSSIANS = [
    {"logvar": (2,)},
    {"logvar": torch.zeros((), dtype=torch.float16)},
    {"logvar": torch.zeros((), device="meta")},
    {"logvar": None},
]


class TestTheSameErrors:
    """Types and messages, without the library as with it."""

    @staticmethod
    def raised(call):
        with pytest.raises(Exception) as caught:
            call()
        return type(caught.value), str(caught.value)

    @pytest.mark.parametrize(("call", "exception", "words"), list(bad_calls()))
    def test_of_operands(self, call, exception, words):
        expected = self.raised(call)
        with in_plain_pytorch():
            assert self.raised(call) == expected

    @pytest.mark.parametrize(("row", "parameter"), WRONG_KINDS)
    def test_of_kinds(self, row, parameter):
        for value in WRONG[row.kinds.get(parameter.name) or KINDS[parameter.name]].values():
            given = row.right | {parameter.name: value}
            expected = self.raised(lambda given=given: row.call(**given))
            with in_plain_pytorch():
                assert self.raised(lambda given=given: row.call(**given)) == expected

    @pytest.mark.parametrize("wrong", BAD_LAYERS + BAD_GAUSSIANS, ids=str)
    def test_of_layers(self, wrong):
        given = {k: torch.zeros(v) if isinstance(v, tuple) else v for k, v in (LAYER | wrong).items()}
        functions = [aevb_ext.linear_gaussian_log_prob]
        if "logvar" not in wrong:
            functions.append(aevb_ext.linear_bernoulli_log_prob)
            given["logvar"] = torch.zeros(())
        for function in functions:
            if function is aevb_ext.linear_bernoulli_log_prob:
                given.pop("logvar")
            expected = self.raised(lambda function=function: function(**given))
            with in_plain_pytorch():
                assert self.raised(lambda function=function: function(**given)) == expected

    @pytest.mark.parametrize(
        "call",
        [
            lambda: aevb_ext.halves(torch.zeros(4, 6), 2),
            lambda: aevb_ext.halves(torch.zeros(()), 0),
            lambda: aevb_ext.halves(torch.zeros(4, 5)),
            lambda: aevb_ext.unpack_bits(torch.zeros(4, 1, dtype=torch.uint8), 9),
            lambda: aevb_ext.unpack_bits(torch.zeros(4, 1, dtype=torch.uint8), -1),
            lambda: aevb_ext.rsample(torch.zeros(3), torch.zeros(3), first_sample=-1),
            lambda: aevb_ext.rsample(torch.zeros(3), torch.zeros(3), first_sample=2**62),
            lambda: aevb_ext.binarize(torch.zeros(3), torch.zeros(5, 2, dtype=torch.int64)),
            lambda: aevb_ext.rsample(torch.zeros(3), torch.zeros(3), generator=[torch.Generator()]),
        ],
    )
    def test_of_the_rest(self, call):
        expected = self.raised(call)
        with in_plain_pytorch():
            assert self.raised(call) == expected


@pytest.mark.parametrize("case", small_cases(dtype=torch.float32), ids=str)
def test_dtypes_shapes_and_layouts_are_those_of_the_kernels(case):
    def results():
        call = case.build().differentiable()
        outputs = call.run()
        return *outputs, *torch.autograd.grad([o.sum() for o in outputs], list(call.floating().values()))

    with in_plain_pytorch():
        found = results()
    for a, b in zip(found, results(), strict=True):
        torch.testing.assert_close(a, b)


def test_doctor_compares_both(monkeypatch):
    right = doctor.wrong_operators("cpu")
    with in_plain_pytorch():
        assert doctor.wrong_operators("cpu") == right == []
