"""The faults: in each file, an expression between « and », and the wrong one that takes its place."""

from typing import NamedTuple


class Fault(NamedTuple):
    file: str  # in csrc
    right: str  # occurs once in the file
    wrong: str  # what stands between « and » instead
    tests: str  # the file of tests that is expected to see it


CPU = [
    # Formulas
    Fault("formulas/bernoulli.h", "product(residual(x, l), l), «exp_of_minus_abs(l)»", "exp(-l)", "test_extremes"),
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
    Fault(
        "formulas/numerics.h",
        "auto small = «abs(w) < N(N::digits < 24 ? 0.5 : 1)»;",
        "abs(w) < N(1e-3)",
        "test_numbers",
    ),
    Fault("formulas/numerics.h", "N capped = «select(w > N(1e4), N(1e4), w)»;", "w", "test_extremes"),
    Fault(
        "formulas/numerics.h",
        "-0.00324402496383};\n    return fma(-t, «polynomial(t, c)», a)",
        "polynomial(t, c) * N(1.000001)",
        "test_numbers",
    ),
    Fault(
        "formulas/bernoulli.h", "log_larger = «log_of_larger_part(smaller)»;", "log(N(1) - smaller)", "test_extremes"
    ),
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
    Fault("formulas/box_muller.h", "fma(a, N(ulp), N(«0.5 * ulp»))", "0.0", "test_noise"),
    # Formulas of counts, scales, levels, components and classes
    Fault(
        "formulas/counts.h",
        "select(fraction, «slope + (of_theta.slope - of_sum.slope)», dtheta);",
        "slope",
        "test_gradients",
    ),
    Fault("formulas/counts.h", "ds = select(«x == N(0)», select(r == r", "x < N(0)", "test_likelihoods"),
    Fault("formulas/counts.h", "dg = select(counted, «-closed», -open", "closed", "test_gradients"),
    Fault("formulas/counts.h", "select(counted, nb.value - «select(positive, g, N(0))» - l", "N(0)", "test_values"),
    Fault("formulas/continuous.h", "-select(«t == N(__builtin_inf())», t, t", "t < N(0)", "test_likelihoods"),
    Fault("formulas/continuous.h", "select(l > N(0), «tail», -tail)", "-tail", "test_gradients"),
    Fault("formulas/student_t.h", "fma(N(0.5), of.df, «N(0.5)») * of", "N(0)", "test_values"),
    Fault("formulas/student_t.h", "derivative()) - «of.excess(z)»);", "of.log1p_y()", "test_gradients"),
    Fault("formulas/student_t.h", "y < N(1), «near», log1p_y() - z", "log1p_y() - z", "test_continuous_formulas"),
    Fault("formulas/discretized_logistic.h", "auto last = level > «N(254.5)»;", "N(255.5)", "test_likelihoods"),
    Fault(
        "formulas/discretized_logistic_mixture.h",
        "z[1] = mean[2] * «x.colour[0]» *",
        "x.colour[1]",
        "test_discretized_logistic_mixture",
    ),
    Fault(
        "formulas/discretized_logistic_mixture.h",
        "log_scale[c] = «select(at_limit_[c], N(0), log_scale[c])»;",
        "log_scale[c]",
        "test_discretized_logistic_mixture",
    ),
    Fault("formulas/mixture.h", "sum = select(higher, «fma(sum, e, N(1))», sum + e);", "sum + N(1)", "test_mixture"),
    Fault("formulas/mixture.h", "dv = fma(w, «fma(t, t, N(-1))», dv);", "t * t", "test_mixture"),
    Fault(
        "formulas/mixture.h",
        "if («log_density == infinity || log_density == -infinity») log",
        "false",
        "test_mixture",
    ),
    Fault("cpu/categorical.h", "return «double(int64_t(given)) == given» ? int64_t", "true", "test_categorical"),
    Fault("cpu/categorical.h", "if («!once») sum_of_exp(", "false", "test_categorical"),
    Fault("cpu/positions.h", "sums[r] = sum(values + «r * each», each);", "0", "test_categorical"),
    # Loops
    Fault("cpu/rows.h", "«last ? stretch.last(rest, N(0.0)) : stretch»", "stretch", "test_values"),
    Fault("cpu/rows.h", "N::load(aside[k]).last(«rest», N::load(at)).store(at);", "lanes", "test_extremes"),
    Fault("cpu/rows.h", "int end = «whole - i < kStretch ? whole : i + kStretch»;", "whole", "test_numbers"),
    Fault("cpu/rows.h", "if («numbers.first[r * place.step] == 0») return {};", "false", "test_extremes"),
    Fault("cpu/rows.h", "const bool again = «one_number && place.offset == copied_»", "one_number", "test_layouts"),
    Fault("cpu/tiles.h", "const bool rows = «goes_by_rows<T>(chunk)» &&", "true", "test_layouts"),
    Fault("cpu/rows.h", "whole_vectors = «uintptr_t(first) % sizeof(N) == 0»", "true", "test_layouts"),
    Fault("cpu/tiles.h", "if («chunk.size <= layout.size[last] - index[last]») return", "true", "test_layouts"),
    Fault("cpu/tiles.h", "*to = «again ? *to + part : part»;", "part", "test_rows"),
    Fault("cpu/tiles.h", "if («chunk.row % output.rows_per_sum»)", "true", "test_sums_over_rows"),
    Fault("cpu/tiles.h", "from + («rows - rows / 2») * chunk.count", "rows / 2", "test_sums_over_rows"),
    Fault("cpu/stage.h", "index[last - 1] += «some»;", "some - 1", "test_layouts"),
    Fault("cpu/stage.h", "return (u + («(u >> 16 & 1) + 0x7fff»)) >> 16;", "0x8000 + (u & 0)", "test_noise"),
    Fault("cpu/stage.h", "«gradient ? 0x7f7f7fff : 0x7f800000»", "0x7f800000", "test_half_gradients"),
    Fault("cpu/vec.h", "return p * power_of_two(half) * power_of_two(«e.power - half»);", "half", "test_values"),
    Fault(
        "cpu/sample.h",
        "counter.word[1].part[k] = «counter.word[0].part[k] >> 32»;",
        "counter.word[0].part[k] >> 63",
        "test_noise",
    ),
    Fault("cpu/sample.h", "so_far = «k ? load(g_sum) : N(0)»", "N(0)", "test_gradients"),
    Fault("cpu/sample.h", "if («own != key») noise", "false", "test_noise_keys"),
    Fault(
        "cpu/bits.h",
        "memcpy(to + 8 * whole, &bits, «call.count - 8 * whole»);",
        "8 * (call.count > 8 * whole)",
        "test_bits",
    ),
    Fault(
        "ops/common/speculative_gradient.cpp",
        "gradients.empty() || «seen != guess_»",
        "false",
        "test_speculative_gradient",
    ),
]

# On the CPU by emulation (tests/emulation).
CUDA = [
    # Which elements a thread has
    Fault(
        "cuda/load.cuh",
        "static_cast<int>(«left < most ? left : most»)",
        "most",
        "test_values",
    ),
    Fault("cuda/load.cuh", "first = «row * t.event + start»;", "int(row * t.event + start)", "test_emulation"),
    Fault("cuda/load.cuh", "if («static_cast<uint64_t>(index) >= by.value») ++quotient", "false", "test_values"),
    Fault("cuda/load.cuh", "offset(in_->event, «start_ + i»)", "i", "test_layouts"),
    Fault("cuda/load.cuh", "if (in.along == Along::steps) from += «start * stride()»;", "start", "test_layouts"),
    Fault(
        "cuda/load.cuh", "first = start + «narrow_product(row, t.event)»;", "row * unsigned(t.event)", "test_emulation"
    ),
    Fault("cuda/tiling.h", "uintptr_t>(data) % «(period * element)» == 0", "1", "test_layouts"),
    Fault("cuda/tiling.h", "(tiling_.rows == 1 || «to_next_row % period == 0»)", "true", "test_layouts"),
    Fault("cuda/tiling.h", "&& «t.event % V == 0»", "true", "test_values"),
    Fault("cuda/rows.cuh", "if («(head ^ head_) & common») exclude();", "false", "test_layouts"),
    Fault("cuda/rows.cuh", "size > head_ ? «(size - head_) / V» : 0", "(size - head_ + V - 1) / V", "test_values"),
    Fault("cuda/rows.cuh", "packs == 0 || «k < begin» ? k", "false", "test_layouts"),
    Fault("cuda/rows.cuh", "work, «tile.size - packs * V», tile.lane", "tile.size - packs * V - 1", "test_values"),
    Fault("cuda/rows.cuh", "flat = is_one_run(call.cotangent) && «!call.value.per_block» &&", "true", "test_values"),
    Fault("cuda/rows.cuh", "if (tile.lane == 0 && «tile.size > 0») store", "true", "test_values"),
    Fault("cuda/rows.cuh", "was_right(«used[tile.index]», cotangent", "otherwise.v", "test_emulation"),
    Fault("cuda/rows.cuh", "stores || («!call.value.data && »call.gradient", "", "test_emulation"),
    Fault("cuda/rows.cuh", "«if (valued) return;»  // which are summed", "", "test_emulation"),
    Fault("cuda/rows.cuh", "if («!result.template takes<W>(i)»)", "false", "test_emulation"),
    Fault("cuda/guess.cuh", "return «guess == cotangent» && guess", "true", "test_emulation"),
    Fault("cuda/guess.cuh", "seen = «first == last» ? first", "true", "test_emulation"),
    Fault("cuda/guess.cuh", "seen != Factor(0) && «seen == before» ?", "true", "test_emulation"),
    Fault("cuda/tiling.h", "push(row, in.size[d] / inside, «in.stride[d] * inside»)", "in.stride[d]", "test_values"),
    Fault(
        "cuda/sample.cuh",
        "return «static_cast<unsigned>(at + j) < static_cast<unsigned>(size)»;",
        "at + j < size",
        "test_values",
    ),
    Fault("cuda/sample.cuh", "has(kQuad - 1) && «aligned<kQuad>(element_0 + at)»;", "true", "test_layouts"),
    Fault("cuda/sample.cuh", "(samples == 1 || «task.numbers % kQuad == 0»)", "true", "test_values"),
    Fault("cuda/unpack_bits.cu", "if («8 * at + 8 <= call.count» && aligned", "8 * at < call.count", "test_bits"),
    # Sums
    Fault("cuda/reduce.cuh", "of_warp[k][warp] = sum[k];\n  «__syncthreads()»;", "(void)0", "test_values"),
    Fault("cuda/reduce.cuh", "«__syncthreads()»;  // of_warp", "(void)0", "test_emulation"),
    Fault("cuda/reduce.cuh", "a = «select(distance < width, a + other, a)»;", "a + other", "test_values"),
    Fault("cuda/reduce.cuh", "of_warp[k][lane] : N(0), «warps»)", "warps / 2", "test_values"),
    Fault("cuda/rows.cuh", "loaded.cotangent.template number<N>(j) * «scale»", "N(1)", "test_gradients"),
    Fault("cuda/sample.cuh", "sum = sum + «select(quad.has(j), value[j], N(0))»;", "value[j]", "test_values"),
    # Noise
    Fault("cuda/sample.cuh", "const bool shift = «skip & by»;", "false", "test_noise_keys"),
    Fault("cuda/sample.cuh", "block(«index / kQuad + 1», next);", "index / kQuad", "test_noise_keys"),
    Fault("cuda/sample.cuh", "first += «task.numbers_before»;", "int64_t(0)", "test_stream"),
    Fault(
        "cuda/sample.cuh", "task.numbers = «call.key_rows * call.event»;", "call.rows * call.event", "test_noise_keys"
    ),
    Fault("cuda/sample.cuh", "Word(number), «Word(number >> 32)», offset_[0]", "Word(0)", "test_noise"),
    Fault("cuda/sample.cuh", "noise.skip(«part»);", "0", "test_gradients"),
    Fault("cuda/sample.cuh", "noise_of_sample.skip(«share»);", "1", "test_gradients"),
    Fault("cuda/sample.cuh", "if («share > 1») {", "false", "test_gradients"),
    # Which results are written
    Fault("cuda/sample.cuh", "task.of_kl && «blockIdx.y == 0»;", "true", "test_values"),
    Fault("cuda/sample.cuh", "int64_t sample = «blockIdx.y»;", "0", "test_values"),
    Fault(
        "cuda/load.cuh",
        "held[j] = «select(a[j] > most, most, select(a[j] < -most, -most, a[j]))»;",
        "a[j]",
        "test_half_gradients",
    ),
    # The chain rule at zero and infinity
    Fault("cuda/rows.cuh", "cotangent.uniform() && «!(same == N(0))», graded", "true", "test_extremes"),
    Fault("cuda/load.cuh", "if («largest == N(__builtin_inf())») {", "false", "test_extremes"),
]
