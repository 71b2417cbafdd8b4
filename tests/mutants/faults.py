"""The faults: in each file, an expression between « and », and the wrong one that takes its place."""

from typing import NamedTuple


class Fault(NamedTuple):
    file: str  # in csrc
    right: str  # occurs once in the file
    wrong: str  # what stands between « and » instead
    tests: str  # the file of tests that is expected to see it


CPU = [
    # Formulas
    Fault("formulas/bernoulli.h", "product(residual(x, l), l), «exp(-abs(l))»", "exp(-l)", "test_extremes"),
    Fault("formulas/bernoulli.h", "residual(x, l) + select(l > N(0), «tail», -tail)", "-tail", "test_gradients"),
    Fault("formulas/bernoulli.h", "dx = «l * N(x_scale)»;", "l", "test_gradients"),
    Fault(
        "formulas/bernoulli.h", "return «select(logarithm < N(-100), N(-100), logarithm)»;", "logarithm", "test_numbers"
    ),
    Fault(
        "formulas/bernoulli.h", 'select(variance < N(0), «N(__builtin_nan(""))», N(1e-12))', "N(1e-12)", "test_extremes"
    ),
    Fault("formulas/numerics.h", "return «select(a == N(0), N(0), a * b)»;", "a * b", "test_extremes"),
    Fault("formulas/numerics.h", "select(cotangent == N(0), «finite», derivative)", "derivative", "test_extremes"),
    Fault("formulas/numerics.h", "auto small = «abs(w) < N(1)»;", "abs(w) < N(1e-3)", "test_numbers"),
    Fault("formulas/numerics.h", "N capped = «select(w > N(1e4), N(1e4), w)»;", "w", "test_extremes"),
    Fault("formulas/numerics.h", "fma(-t, «polynomial(t, c)», a)", "polynomial(t, c) * N(1.000001)", "test_numbers"),
    Fault("formulas/numerics.h", "return «log(u) + ((N(1) - u) - p)»;", "log(u)", "test_extremes"),
    Fault(
        "formulas/numerics.h",
        "select(abs(t) < N(0.5), «log1p(t)», log(a) - log(b))",
        "log(a) - log(b)",
        "test_extremes",
    ),
    Fault(
        "formulas/gaussian.h",
        "ds = spread.times_slope(«N(0.5) * fma(t, t, N(-1))», s);",
        "N(0.5) * t * t",
        "test_gradients",
    ),
    Fault(
        "formulas/gaussian.h",
        "spread.times_slope(«N(0) - N(0.5) * fma(q, q, expm1)», prior_s)",
        "-(N(0.5) * fma(q, q, expm1))",
        "test_extremes",
    ),
    Fault("formulas/gaussian.h", "slope = «larger * smaller»;", "value * (N(1) - value)", "test_numbers"),
    Fault(
        "formulas/gaussian.h",
        "dm = «select(abs(dm) == N(__builtin_inf()), product(scaled, t), product(mu.slope, dm))»;",
        "product(mu.slope, dm)",
        "test_extremes",
    ),
    Fault("formulas/spread.h", "case Spread::std: return «(a + a) / s»;", "(a + a) * (N(1) / s)", "test_extremes"),
    Fault("formulas/philox.h", "K(key1 + round * «0xBB67AE85u»)", "0xBB67AE84u", "test_noise"),
    Fault("formulas/philox.h", "fma(a, N(ulp), N(«0.5 * ulp»))", "0.0", "test_noise"),
    # Loops
    Fault("cpu/rows.h", "[=](N v) { return «v.first(rest)»; }", "v", "test_values"),
    Fault("cpu/rows.h", "const int end = «whole - i < kStretch ? whole : i + kStretch»;", "whole", "test_numbers"),
    Fault("cpu/rows.h", "if («!cotangent.step && cotangents_.data[0] != 0»)", "!cotangent.step", "test_extremes"),
    Fault("cpu/rows.h", "if («chunk.size <= input.size[last] - index[last]»)", "true", "test_layouts"),
    Fault("cpu/rows.h", "type[k] == call_.wide && «uintptr_t(to[k]) % sizeof(N) == 0»", "true", "test_layouts"),
    Fault("cpu/tiles.h", "*to = «chunk.first % kBlock ? *to + part : part»;", "part", "test_rows"),
    Fault("cpu/stage.h", "index[last] += «run - 1»;", "run", "test_layouts"),
    Fault("cpu/stage.h", "U32x rounded = (u + («(cut & 1) + 0x7fff»)) >> 16;", "0x8000 + (cut & 0)", "test_noise"),
    Fault(
        "cpu/sample.h",
        "counter.word[1].part[k] = «counter.word[0].part[k] >> 32»;",
        "counter.word[0].part[k] >> 63",
        "test_noise",
    ),
    Fault("cpu/sample.h", "before = «k ? load(g_sum) : N(0)»", "N(0)", "test_gradients"),
    Fault("cpu/sample.h", "if («own != key») noise", "false", "test_noise_keys"),
    Fault(
        "cpu/bits.h",
        "memcpy(to + 8 * whole, &bits, «call.count - 8 * whole»);",
        "8 * (call.count > 8 * whole)",
        "test_bits",
    ),
    Fault(
        "ops/common/speculative_gradient.cpp",
        "!gradients.empty() && «seen == guess_»",
        "true",
        "test_speculative_gradient",
    ),
]
